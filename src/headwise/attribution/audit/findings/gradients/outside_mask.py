"""A loss that sends a gradient where a mask says none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings.finding import Check, Finding, Seen
from headwise.attribution.audit.measures.rows import Measured
from headwise.attribution.outputs import resolve
from headwise.criterion.terms.paths import parse
from headwise.structure import get

_FAINT = 1e-6


@dataclass(frozen=True)
class _Leak:
    """One loss's gradient outside of one mask."""

    loss: str
    output: str
    mask: str
    outside: int
    positions: int
    outside_norm: float
    norm: float


def _measure(measured: Measured, subject: Subject) -> list[_Leak]:
    found = []
    paths = list(measured.outputs)
    for text, key in subject.masks.items():
        for path, channels in resolve(text, measured.step.outputs, f"masks[{text!r}]", subject.names_of_one):
            if path not in paths:
                continue
            for name, row in zip(measured.rows.names, measured.at_outputs, strict=False):
                grad = row[paths.index(path)]
                if grad is None:
                    continue
                if channels is not None:
                    start, stop = channels.bounds(grad)
                    grad = grad.narrow(channels.dim, start, stop - start)
                outside = grad.detach().double() * ~_fitted(_mask_of(measured.step.batch, key), grad, text, key)
                largest = float(grad.abs().max()) if grad.numel() else 0.0
                count = int((outside.abs() > 1e-6 * largest).sum())
                norms = float(outside.norm()), float(grad.double().norm())
                found.append(_Leak(name, text, key, count, grad.numel(), *norms))
    return found


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


def _judge(seen: Seen) -> Iterator[Finding]:
    leaks = [leak for own in seen.measured for leak in own or ()]
    leaks = [leak for leak in leaks if leak.outside and leak.outside_norm > _FAINT * leak.norm]
    for loss, output in dict.fromkeys((leak.loss, leak.output) for leak in leaks):
        own = [leak for leak in leaks if (leak.loss, leak.output) == (loss, output)]
        count, positions = sum(leak.outside for leak in own), sum(leak.positions for leak in own)
        share = max(leak.outside_norm / leak.norm for leak in own)
        yield Finding(
            f"{loss} at {output}",
            f"{count} of {positions} elements have a gradient where mask {own[0].mask!r} says none, with up to "
            f"{share:.1%} of the gradient's norm, in {len(own)} of {seen.num}",
            "Select by the mask before any arithmetic and divide by the number of selected elements; a mask multiplied "
            "after the mean, or applied to the target alone, lets the gradient through.",
            {"elements": count, "of": positions, "share": share, "batches": len(own)},
        )


CHECK = Check("outside-mask", _judge, _measure, needs_code=True)
