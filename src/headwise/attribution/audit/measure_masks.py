"""Gradients outside of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.audit.evaluate import Evaluation
from headwise.attribution.audit.facts import BatchFacts, MaskFact
from headwise.attribution.audit.structure import resolve
from headwise.criterion.paths import parse
from headwise.structure import get

Row = list[Tensor | None]


def book_masks(
    facts: BatchFacts, found: Evaluation, masks: Mapping[str, str], outputs: Mapping[str, Tensor], rows: Sequence[Row]
) -> None:
    """Book each loss's gradient outside of each mask.

    Args:
        facts: Where to book.
        found: The step.
        masks: Per output path the key of its mask in the batch.
        outputs: The outputs that can be trained.
        rows: Per loss its gradients at these outputs.
    """
    paths = list(outputs)
    for text, key in masks.items():
        for path, channels in resolve(text, found.outputs, f"masks[{text!r}]"):
            if path not in outputs:
                continue
            for name, row in zip(facts.names, rows, strict=False):
                grad = row[paths.index(path)]
                if grad is None:
                    continue
                if channels is not None:
                    start, stop = channels.bounds(grad)
                    grad = grad.narrow(channels.dim, start, stop - start)
                outside = grad.detach().double() * ~_fitted(_mask_of(found.batch, key), grad, text, key)
                largest = float(grad.abs().max()) if grad.numel() else 0.0
                count = int((outside.abs() > 1e-6 * largest).sum())
                facts.masks.append(
                    MaskFact(name, text, key, count, grad.numel(), float(outside.norm()), float(grad.double().norm()))
                )


def _mask_of(batch: Any, key: str) -> Tensor:
    try:
        found = get(batch, parse(key).steps)
    except (KeyError, ValueError) as error:
        raise ValueError(f"audit: masks: the batch has no {key!r}: {error.args[0]}") from None
    return torch.as_tensor(found)


def _fitted(mask: Tensor, grad: Tensor, text: str, key: str) -> Tensor:
    """The mask as bool, of a shape that broadcasts to the gradient."""
    wanted = tuple(grad.shape)
    inside = (mask if mask.dtype == torch.bool else mask > 0).to(grad.device)
    candidates = [inside]
    if inside.ndim < len(wanted):
        missing = len(wanted) - inside.ndim
        shape = tuple(inside.shape)
        candidates = [
            inside.reshape(shape[:1] + (1,) * missing + shape[1:]),
            inside.reshape(shape + (1,) * missing),
            inside,
        ]
    for candidate in candidates:
        if candidate.ndim <= len(wanted) and all(
            a in (1, b) for a, b in zip(reversed(candidate.shape), reversed(wanted), strict=False)
        ):
            return candidate.expand(wanted)
    raise ValueError(
        f"audit: mask {key!r} of shape {tuple(mask.shape)} does not fit output {text!r} of shape {wanted}. "
        "Give a mask with the output's shape, without its channels, or one that broadcasts."
    )
