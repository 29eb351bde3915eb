"""Torch's own losses as a sum and a count, so that their mean can be pooled exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headwise import normalizers
from headwise.declaration import Declaration, unwrapped
from headwise.losses.parts.checks import (
    as_probability,
    check_elements,
    check_labels,
    check_probabilities,
    select,
    working_dtype,
)
from headwise.masks import as_mask, spread_mask

Sum = Callable[..., Tensor]
_MODULES: Mapping[Any, type[nn.Module]] = {
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.soft_margin_loss: nn.SoftMarginLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.kl_div: nn.KLDivLoss,
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
}
_BINARY = (nn.BCELoss, nn.BCEWithLogitsLoss)
_LABELED = (nn.CrossEntropyLoss, nn.NLLLoss)


def from_torch(loss: nn.Module | Callable[..., Tensor]) -> tuple[Sum, normalizers.Normalizer]:
    """Takes a torch loss apart into a sum and a normalizer (what its mean divides by).

    ``total(output, target, mask) / normalizer(target, mask)`` equals ``loss(output, target)`` where nothing is masked,
    weights of classes, positives and elements, label smoothing, class probabilities as targets and ``ignore_index``
    included; with ``reduction="sum"`` the normalizer is 1. Masks are as in the losses of this package. The sum declares
    what its mean divides by, so that a `Term` needs the sum alone.

    Args:
        loss: One of ``MSELoss, L1Loss, SmoothL1Loss, HuberLoss, BCELoss, BCEWithLogitsLoss, SoftMarginLoss,
            PoissonNLLLoss, KLDivLoss, CrossEntropyLoss, NLLLoss`` (`torch.nn`) or the function of it
            (`torch.nn.functional`, options fixed by `functools.partial`), with reduction "mean" or "sum", or
            "batchmean" where torch has that; a module is copied, not changed.

    Returns:
        The sum and the normalizer, functions of ``(output, target, mask=None)`` and ``(target, mask=None)``.

    Raises:
        ValueError: If the loss is another one, or its reduction is neither.
    """
    per_element = _module(loss)
    how = str(per_element.reduction)
    by_image = how == "batchmean" and type(per_element) is nn.KLDivLoss
    if how not in {"mean", "sum"} and not by_image:
        raise ValueError(
            f"losses.from_torch: {_name(loss)} has reduction={how!r}. Use 'mean', or 'sum' for a denominator of 1."
        )
    per_element.reduction = "none"
    labeled = type(per_element) in _LABELED
    count: Any = partial(_labeled_count, per_element) if labeled else normalizers.elements
    count = normalizers.images if by_image else count
    total = partial(_labeled_sum if labeled else _elementwise_sum, per_element)
    total.declaration = Declaration(count)  # type: ignore[attr-defined]
    return total, normalizers.one if how == "sum" else count


def is_torch_loss(loss: Any) -> bool:
    """Whether a loss is one of torch's own that adds up or averages what it computes.

    Args:
        loss: A module or a function, perhaps with options.

    Returns:
        Whether it is.
    """
    if isinstance(loss, nn.Module):
        return type(loss).__module__.startswith("torch.nn.") and hasattr(loss, "reduction")
    called, _ = unwrapped(loss)
    name = getattr(called, "__name__", "")
    return getattr(F, name, None) is called and name.endswith(("_loss", "cross_entropy", "_with_logits", "kl_div"))


def is_bare_sum(loss: Any) -> bool:
    """Whether a loss is one of torch's own that `from_torch` has no count for, and only adds up.

    Args:
        loss: A module or a function, perhaps with options.

    Returns:
        Whether it is.
    """
    if not is_torch_loss(loss):
        return False
    called, options = unwrapped(loss)
    known = type(called) in _MODULES.values() or called in _MODULES
    return not known and getattr(called, "reduction", options.get("reduction")) == "sum"


def _module(loss: Any) -> Any:
    if isinstance(loss, nn.Module) and type(loss) in _MODULES.values():
        return copy.deepcopy(loss)
    called, options = unwrapped(loss)
    if isinstance(called, Hashable) and called in _MODULES:
        try:
            return _MODULES[called](**options)
        except TypeError as error:
            raise ValueError(f"losses.from_torch: {_name(loss)}: {error}. Leave the option out") from None
    if isinstance(loss, type):
        raise ValueError(f"losses.from_torch: {loss.__name__} is a class. Give one of it: {loss.__name__}()")
    known = ", ".join(each.__name__ for each in _MODULES.values())
    raise ValueError(
        f"losses.from_torch: no count is known for {_name(loss)}. It takes {known}; give a Term of another loss a "
        "normalizer: a function that counts, beside reduction='sum', or 1.0, which keeps the loss's own mean."
    )


def _name(loss: Any) -> str:
    return type(loss).__name__ if isinstance(loss, nn.Module) else str(getattr(unwrapped(loss)[0], "__name__", loss))


def _per_element(module: Any, output: Tensor, target: Tensor) -> Tensor:
    """Calls the module, with its weights in the dtype and on the device of the output."""
    buffers = {name: each.to(output) for name, each in module.named_buffers()}
    if not buffers:
        found: Tensor = module(output, target)
        return found
    if isinstance(module, nn.CrossEntropyLoss):
        buffers["label_smoothing"] = module.label_smoothing
    if type(module) in _LABELED:
        buffers["ignore_index"] = module.ignore_index
    function: Any = next(function for function, each in _MODULES.items() if each is type(module))
    return function(output, target, **buffers, reduction="none")  # type: ignore[no-any-return]


def _elementwise_sum(module: Any, output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    check_elements(type(module).__name__, output, target, mask)
    dtype, is_binary = working_dtype(output), type(module) in _BINARY
    if is_binary:
        check_probabilities(type(module).__name__, output, target, mask)
    output, target = output.to(dtype), (as_probability(target, dtype) if is_binary else target.to(dtype))
    keep = spread_mask(output, mask)
    if keep is None:
        return _per_element(module, output, target).sum()
    elements = _per_element(module, torch.where(keep, output, 0.0), torch.where(keep, target, 0.0))
    return torch.where(keep, elements, 0.0).sum()


def _labeled_sum(module: Any, output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    output = output.to(working_dtype(output)) if output.is_floating_point() else output
    if _is_soft(module, target) and target.shape == output.shape:
        check_elements(type(module).__name__, output, target, None)
        _check_places(module, output, mask)
        keep = None if mask is None else as_mask(mask)
        chosen = select(None if keep is None else keep.unsqueeze(1), target.to(output.dtype), 0.0)
    else:
        check_labels(type(module).__name__, output, target, mask)
        keep, chosen = None if mask is None else as_mask(mask), target.long()
        chosen = select(keep, chosen, 0)
    if keep is None:
        return _per_element(module, output, chosen).sum()
    elements = _per_element(module, torch.where(keep.unsqueeze(1), output, 0.0), chosen)
    return torch.where(keep, elements, 0.0).sum()


def _check_places(module: Any, output: Tensor, mask: Tensor | None) -> None:
    if mask is not None and mask.shape != output.shape[:1] + output.shape[2:]:
        raise ValueError(
            f"{type(module).__name__}: logits of shape {tuple(output.shape)} have a mask of shape "
            f"{tuple(output.shape[:1] + output.shape[2:])}, found {tuple(mask.shape)}. Give one value a place."
        )


def _is_soft(module: Any, target: Tensor) -> bool:
    """Whether targets are probabilities of classes, (N, C, ...), which cross entropy takes as well."""
    return isinstance(module, nn.CrossEntropyLoss) and target.is_floating_point() and target.ndim > 1


def _labeled_count(module: Any, target: Tensor, mask: Tensor | None = None) -> Tensor | int:
    if _is_soft(module, target):
        # Torch divides by the places, whatever the weights of the classes.
        return normalizers.count(target[:, 0], mask)
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
            f"{type(module).__name__}: labels must be integer or bool, or probabilities (N, C, ...), found "
            f"{target.dtype} of shape {tuple(target.shape)}. Give class numbers, or one probability a class."
        )
    return target.long()
