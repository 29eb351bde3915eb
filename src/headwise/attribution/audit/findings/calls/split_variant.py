"""A loss whose gradient is neither the mean nor the sum over parts of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.audit.code.step import Step, call_criterion
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings.finding import Check, Finding, Seen, counted
from headwise.attribution.audit.measures.rows import Measured
from headwise.attribution.jacobians.held import kept_buffers, same_draw
from headwise.structure import by_path, mapped

_SPLIT = 0.01


def _measure(measured: Measured, subject: Subject) -> dict[str, float]:
    """The gradient of the whole batch against that of its two halves, as a mean and as a sum."""
    first, found = measured.step, {}
    size = _batch_size(first)
    if size < 2:
        raise ValueError("the batch has no common first dimension of 2 or more")
    whole = _leaf_gradients(subject, first, 0, size, size)
    cut = size // 2
    halves = _leaf_gradients(subject, first, 0, cut, size), _leaf_gradients(subject, first, cut, size, size)
    for name, grad in whole.items():
        if any(name not in half for half in halves):
            continue
        joined = [half[name] * (part / size) for half, part in zip(halves, (cut, size - cut), strict=True)]
        mean, total = torch.cat(joined, dim=1), torch.cat([half[name] for half in halves], dim=1)
        scale = float(grad.norm())
        if scale > 0 and mean.shape == grad.shape and bool(grad.isfinite().all()):
            found[name] = min(float((grad - mean).norm()), float((grad - total).norm())) / scale
    return found


def _batch_size(first: Step) -> int:
    sizes = {tensor.shape[0] for tensor in first.trainable.values() if tensor.ndim}
    return sizes.pop() if len(sizes) == 1 else 0


def _leaf_gradients(subject: Subject, first: Step, begin: int, end: int, size: int) -> dict[str, Tensor]:
    """Per loss its gradient at a part of the outputs, as one row per image, transposed."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[begin:end] if tensor.ndim and tensor.shape[0] == size else tensor

    def leaf(tensor: Tensor) -> Tensor:
        return cut(tensor).detach().clone().requires_grad_(tensor.requires_grad)

    with same_draw(subject.model), kept_buffers(subject.model, subject.criterion):
        outputs = mapped(first.outputs, leaf)
        batch = _cut_lists(mapped(first.batch, cut), begin, end, size)
        found = call_criterion(subject, outputs, batch)
    leaves = [t for t in by_path(outputs).values() if t.requires_grad and t.ndim and len(t) == end - begin]
    grads = {}
    for term in found.parts.terms:
        if term.scalar is not None:
            row = torch.autograd.grad(term.scalar, leaves, retain_graph=True, allow_unused=True)
            full = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, row, strict=True)]
            grads[term.name] = torch.cat([g.detach().double().reshape(end - begin, -1).T for g in full])
    return grads


def _cut_lists(batch: Any, begin: int, end: int, size: int) -> Any:
    """Lists with one element per image are cut like tensors."""
    if isinstance(batch, Mapping):
        return {key: _cut_lists(value, begin, end, size) for key, value in batch.items()}
    if isinstance(batch, list) and len(batch) == size:
        return batch[begin:end]
    if isinstance(batch, tuple) and not hasattr(batch, "_fields"):
        return tuple(_cut_lists(value, begin, end, size) for value in batch)
    return batch


def _judge(seen: Seen) -> Iterator[Finding]:
    drawn = {finding.subject for finding in seen.told if finding.kind == "random-draw"}
    measured = seen.by_name
    for name in seen.names:
        found = measured.get(name)
        if not found or max(found) <= _SPLIT or name in drawn:
            continue
        yield Finding(
            name,
            f"its gradient changes by up to {max(found):.1%} when the batch is split in two (the better of mean and "
            f"sum of the halves, {counted(len(found), 'batch', 'batches')})",
            "A mean over what a mask or a selection leaves is a mean of means once the batch is split over "
            "micro-batches or ranks. Total numerators and denominators over the step, then divide.",
            {"largest": max(found), "batches": len(found)},
        )


CHECK = Check("split-variant", _judge, _measure, needs_code=True, calls_again=True, is_note=True)
