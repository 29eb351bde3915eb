"""Torch's own loss modules as a sum and a count, so that their mean can be pooled exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from headwise.losses.checks import check_elements, check_labels, working_dtype
from headwise.masks import as_mask, spread_mask

_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss)
_LABELLED = (nn.CrossEntropyLoss, nn.NLLLoss)


def from_torch(module: nn.Module) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Takes a torch loss module apart into a loss (a sum) and a normalizer (what its mean divides by).

    ``loss(output, target, mask) / normalizer(target, mask)`` equals ``module(output, target)`` where nothing is masked,
    weights of classes, positives and elements, label smoothing and ``ignore_index`` included; with
    ``reduction="sum"`` the normalizer is 1. Masks are as in the losses of this package.

    Args:
        module: One of ``MSELoss, L1Loss, SmoothL1Loss, HuberLoss, BCEWithLogitsLoss, CrossEntropyLoss, NLLLoss``
            (`torch.nn`) with reduction "mean" or "sum"; it is copied, not changed.

    Returns:
        The loss and the normalizer, functions of ``(output, target, mask=None)`` and ``(target, mask=None)``.

    Raises:
        ValueError: If the module is another one, or its reduction is "none".
    """
    name = type(module).__name__
    if type(module) not in _ELEMENTWISE + _LABELLED:
        known = ", ".join(each.__name__ for each in _ELEMENTWISE + _LABELLED)
        raise ValueError(
            f"losses.from_torch: no count is known for {name}. It takes {known}; for another loss write a function "
            "(output, target, mask) that returns a sum, and choose a normalizer."
        )
    how = str(module.reduction)
    if how not in {"mean", "sum"}:
        raise ValueError(
            f"losses.from_torch: {name} has reduction={how!r}. Use 'mean', or 'sum' for a denominator of 1."
        )
    per_element: Any = copy.deepcopy(module)
    per_element.reduction = "none"
    labelled = type(module) in _LABELLED
    loss = partial(_labelled_sum if labelled else _elementwise_sum, per_element)
    if how == "sum":
        return loss, _one
    return loss, partial(_labelled_count, per_element) if labelled else _elementwise_count


def _elementwise_sum(module: Any, output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    check_elements(type(module).__name__, output, target, mask)
    dtype = working_dtype(output)
    output, target = output.to(dtype), target.to(dtype)
    keep = spread_mask(output, mask)
    if keep is None:
        total: Tensor = module(output, target).sum()
        return total
    elements = module(torch.where(keep, output, 0.0), torch.where(keep, target, 0.0))
    return torch.where(keep, elements, 0.0).sum()


def _elementwise_count(target: Tensor, mask: Tensor | None = None) -> Tensor:
    if mask is None:
        return torch.full((), target.numel(), dtype=torch.float32, device=target.device)
    channels = target.shape[1] if mask.ndim < target.ndim else 1
    return (torch.count_nonzero(as_mask(mask)) * channels).float()


def _labelled_sum(module: Any, output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    check_labels(type(module).__name__, output, target, mask)
    labels, output = target.long(), output.to(working_dtype(output))
    if mask is None:
        total: Tensor = module(output, labels).sum()
        return total
    keep = as_mask(mask)
    output = torch.where(keep.unsqueeze(1), output, 0.0)
    return torch.where(keep, module(output, torch.where(keep, labels, 0)), 0.0).sum()


def _labelled_count(module: Any, target: Tensor, mask: Tensor | None = None) -> Tensor:
    labels = _labels(module, target)
    keep = labels != module.ignore_index
    if mask is not None:
        keep = keep & as_mask(mask)
    if not isinstance(module.weight, Tensor):
        return torch.count_nonzero(keep).float()
    weights = module.weight.to(target.device)[torch.where(keep, labels, 0)]
    return torch.where(keep, weights, 0.0).sum()


def _labels(module: Any, target: Tensor) -> Tensor:
    if target.is_floating_point() or target.is_complex():
        raise ValueError(
            f"{type(module).__name__}: labels must be integer or bool, found {target.dtype}. Convert them with "
            "target.long(); the mean over class probabilities has another denominator."
        )
    return target.long()


def _one(target: Tensor, mask: Tensor | None = None) -> Tensor:
    return torch.ones((), dtype=torch.float32, device=target.device)
