"""Handing out outputs: through a junction where gradients meet, are judged or booked; else as they stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from headwise.criterion.binding.layout import Served
from headwise.criterion.binding.plan import Plan
from headwise.criterion.junctions.junction import Duties, Policy, shown, split
from headwise.criterion.junctions.recording import Record
from headwise.criterion.junctions.sink import view


def hand_out(
    plan: Plan,
    policy: Policy,
    roots: Sequence[Tensor],
    weights: Sequence[float | Tensor],
    idle: Collection[tuple[int, int]],
    record: Record | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Gives every reading its view.

    An output that one loss of this library reads whole needs no junction: that loss sends it a gradient in any case.

    Args:
        plan: Of the call.
        policy: What happens to gradients that are not finite.
        roots: The outputs.
        weights: The terms' weights.
        idle: Terms of weight 0, with their levels, and levels of weight 0: from these the total takes no graph.
        record: Who books what is sent, or None.

    Returns:
        One view a reading, and the zeros that join the total to outputs that may be sent nothing.

    Raises:
        ValueError: Gradients of float16 outputs would be dropped.
    """
    views = [roots[0]] * len(plan.layout.edges)
    tokens = []
    needed = torch.is_grad_enabled()
    held = {number: weight.detach() for number, weight in enumerate(weights) if isinstance(weight, Tensor)}
    idle_terms = {term for term, _ in idle}
    marked = {*held, *idle_terms}
    silent = _silent(plan, held, idle) if marked else {}
    for part in plan.per_output if policy == "keep" else plan.whole:
        if part.is_alone and policy == "keep" and (not marked or part.readers.isdisjoint(marked)):
            root = roots[part.roots[0]]
            views[part.edges[0]] = root if record is None or not root.requires_grad else shown(part, record, root)
            continue
        read = [roots[root] for root in part.roots]
        if not (needed and any(root.requires_grad for root in read)):
            found = [view(read[edge.root], edge) for edge in part.layout.edges]
        else:
            if policy == "drop":
                _refuse_half(part, read)
            sure = len(part.closed) == len(part.edges) and part.readers.isdisjoint(idle_terms)
            own = tuple([silent.get(edge) for edge in part.edges])
            own = own if any(each is not None for each in own) else ()
            found = split(part, Duties(policy, record, None, own, token=not sure), read)
            tokens += found[len(part.edges) :]
        for edge, each in zip(part.edges, found, strict=False):
            views[edge] = each
    return views, tokens


def _silent(plan: Plan, held: Mapping[int, Tensor], idle: Collection[tuple[int, int]]) -> dict[int, Tensor | float]:
    """Per edge the weight that is 0, or may be: one in a tensor."""
    found: dict[int, Tensor | float] = {}
    for term, calls in enumerate(plan.calls):
        heard = {edge for level, edges in enumerate(calls) if (term, level) not in idle for edge in edges}
        for edge in (edge for edges in calls for edge in edges):
            if edge not in heard:
                found[edge] = 0.0
            elif term in held:
                found[edge] = held[term]
    return found


def _refuse_half(part: Served, roots: Sequence[Tensor]) -> None:
    for name, root in zip(part.layout.roots, roots, strict=True):
        if root.dtype == torch.float16 and root.requires_grad:
            raise ValueError(
                f"output {name!r}: on_nonfinite='drop' needs outputs of float32, float64 or bfloat16; found "
                "float16. There the overflow of a loss scale would be dropped before the GradScaler sees it. Use "
                "'keep': the scaler skips the step, and the books name the term"
            )
