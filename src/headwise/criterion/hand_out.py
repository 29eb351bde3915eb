"""Handing out outputs: through a junction where gradients meet, are judged or booked; else as they stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from headwise.criterion.evaluate import Job
from headwise.criterion.junction import Duties, Policy, split
from headwise.criterion.layout import Part
from headwise.criterion.recording import Record
from headwise.criterion.sink import view


def hand_out(
    job: Job,
    policy: Policy,
    roots: Sequence[Tensor],
    weights: Sequence[float | Tensor],
    idle: Collection[int],
    record: Record | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Gives every reading its view.

    An output that one loss of this library reads whole needs no junction: that loss sends it a gradient in any case.

    Args:
        job: Terms and plan.
        policy: What happens to gradients that are not finite.
        roots: The outputs.
        weights: The terms' weights.
        idle: Terms of weight 0, from which the total takes no graph.
        record: Who books what is sent, or None.

    Returns:
        One view a reading, and the zeros that join the total to outputs that may be sent nothing.

    Raises:
        ValueError: Gradients of float16 outputs would be dropped.
    """
    edges = job.plan.layout.edges
    views = [roots[0]] * len(edges)
    tokens = []
    parts = job.plan.per_output if policy == "keep" else job.plan.whole
    for part in parts:
        read = [roots[root] for root in part.roots]
        if policy == "drop":
            _refuse_half(job, part, read)
        if not (torch.is_grad_enabled() and any(root.requires_grad for root in read)):
            found = [view(read[edge.root], edge) for edge in part.layout.edges]
        elif policy == "keep" and record is None and _is_direct(job, part, weights, idle):
            found = read
        else:
            found, token = _through_junction(job, part, policy, read, weights, idle, record)
            tokens += token
        for edge, each in zip(part.edges, found, strict=True):
            views[edge] = each
    return views, tokens


def _is_direct(job: Job, part: Part, weights: Sequence[float | Tensor], idle: Collection[int]) -> bool:
    (edge, *others) = part.layout.edges
    weighed = isinstance(weights[edge.term], Tensor) or edge.term in idle
    return not others and edge.is_plain and not weighed and job.terms[edge.term].closed_form


def _through_junction(
    job: Job,
    part: Part,
    policy: Policy,
    roots: list[Tensor],
    weights: Sequence[float | Tensor],
    idle: Collection[int],
    record: Record | None,
) -> tuple[list[Tensor], list[Tensor]]:
    readers = {edge.term for edge in part.layout.edges}
    sure = all(job.terms[number].closed_form and number not in idle for number in readers)
    held: tuple[Tensor | None, ...] = ()
    if any(isinstance(weights[number], Tensor) for number in readers):
        held = tuple([weight.detach() if isinstance(weight, Tensor) else None for weight in weights])
    closed = [number for number, edge in enumerate(part.layout.edges) if job.terms[edge.term].closed_form]
    found = split(part, Duties(policy, record, None, held, token=not sure), roots, closed)
    return list(found[: len(part.edges)]), list(found[len(part.edges) :])


def _refuse_half(job: Job, part: Part, roots: Sequence[Tensor]) -> None:
    for name, root in zip(part.layout.roots, roots, strict=True):
        if root.dtype == torch.float16 and root.requires_grad:
            raise ValueError(
                f"output {name!r}: on_nonfinite='drop' needs outputs of float32, float64 or bfloat16; found "
                "float16. There the overflow of a loss scale would be dropped before the GradScaler sees it. Use "
                "'keep': the scaler skips the step, and the books name the term"
            )
