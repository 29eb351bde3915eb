"""The terms' values sample by sample: each loss is called once more, for all samples side by side, without a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headwise.criterion.binding.plan import Plan
from headwise.criterion.sums.evaluate import call_loss
from headwise.criterion.sums.stand_in import out_of_turn, stand_in
from headwise.criterion.sums.term_sums import Sums, shares
from headwise.structure import one_line


def value_by_sample(
    plan: Plan, number: int, views: Sequence[Tensor], targets: Sequence[Tensor], sums: Sums, num: int
) -> Tensor | str:
    """One term's value by sample.

    ``value_i = N * numerator_i / denominator``, so that their mean is the term's value where its loss is a sum over
    samples; the ratio of a `RatioTerm` is each sample's own.

    Args:
        plan: Of the call.
        number: Which term.
        views: What every reading reads.
        targets: The leaves of the targets.
        sums: Of the term in this call.
        num: How many samples dimension 0 of all that it reads holds.

    Returns:
        (N,); or why there is none.
    """
    read = [binding(targets) for binding in plan.bindings[number]]
    held = [each for reads, mask in read for each in (*reads, mask) if each is not None and each.dim()]
    held += [views[edge] for edges in plan.calls[number] for edge in edges]
    if any(not each.dim() or len(each) != num for each in held):
        return f"an output, target or mask does not hold the {num} samples in dimension 0"
    numerators, denominators, smooth = [], [], 0.0
    try:
        function = stand_in(plan.terms[number].function)
        for index, (edges, level) in enumerate(zip(plan.calls[number], plan.level_of[number], strict=True)):
            reads = [views[edge].detach() for edge in edges]
            numerator, denominator, smooth = _side_by_side(plan, number, index, reads, read[level], function)
            numerators.append(numerator)
            denominators.append(denominator)
    except Exception as error:  # whatever a loss of the user's cannot do; training goes on
        return f"its loss cannot be called for samples side by side ({one_line(error)[:200]})"
    own = [each for each in denominators if each is not None]
    if not own:
        return shares(sums, numerators) * num
    if sums.pooled:
        own = [torch.stack(own).sum(0)] * len(own)
    return shares(Sums((), tuple(own), smooth, sums.levels), numerators)


def _side_by_side(
    plan: Plan,
    number: int,
    index: int,
    reads: Sequence[Tensor],
    read: tuple[list[Tensor], Tensor | None],
    function: Any,
) -> tuple[Tensor, Tensor | None, float]:
    """The sums of one call of a loss, (N,) each; what divides is None where the targets alone tell it."""
    targets, mask = read
    given = [*reads, *targets, *([] if mask is None else [mask])]
    smooths: list[float] = []

    def one(*tensors: Tensor) -> tuple[Tensor, ...]:
        whole = [each.unsqueeze(0) if given[place].dim() else each for place, each in enumerate(tensors)]
        end = len(reads) + len(targets)
        own = whole[: len(reads)], (whole[len(reads) : end], whole[end] if mask is not None else None)
        numerator, denominator, smooth = call_loss(plan, number, index, *own, function)
        smooths.append(smooth)
        return (numerator,) if denominator is None else (numerator, denominator)

    dims = tuple(0 if each.dim() else None for each in given)
    with out_of_turn(reads[0]):
        found = torch.func.vmap(one, in_dims=dims)(*given)
    return found[0], found[1] if len(found) > 1 else None, smooths[0]
