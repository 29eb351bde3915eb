"""The arithmetic of one criterion call, along a plan: outputs and targets in, every term's sums out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from headwise.criterion.binding.binding import ReadTarget, ReadTargets
from headwise.criterion.binding.plan import Plan
from headwise.criterion.junctions.stats import book_dtype
from headwise.criterion.sums.term_sums import Sums
from headwise.criterion.sums.vectors import Number, vector
from headwise.criterion.terms.counting import as_count, is_seen
from headwise.criterion.terms.term import AnyTerm, RatioTerm, Term
from headwise.ratio import Ratio
from headwise.structure import describe, one_line
from headwise.tabular import is_number

Denominators = Mapping[str, Tensor | Ratio]


def evaluate(plan: Plan, views: Sequence[Tensor], targets: Sequence[Tensor], given: Denominators | None) -> list[Sums]:
    """Evaluates the losses and counts of all terms; a function of tensors alone, so that it compiles as one graph.

    Args:
        plan: Of the call.
        views: What every reading reads.
        targets: The leaves of the targets.
        given: Totaled denominators (and ratios of a `RatioTerm`), or None.

    Returns:
        Each term's sums; the weights of its levels are not among them.
    """
    read = [[binding(targets) for binding in bindings] for bindings in plan.bindings]
    with torch.no_grad():
        counts = [
            _counts(term, each, None if given is None else given.get(term.name))
            for term, each in zip(plan.terms, read, strict=True)
        ]
    return [_sums_of_term(plan, number, views, read[number], counts[number]) for number in range(len(plan.terms))]


def evaluate_as_one(
    plan: Plan, views: Sequence[Tensor], targets: Sequence[Tensor], given: Denominators | None
) -> tuple[Tensor | None, list[Sums]]:
    """As `evaluate`, with all numerators in one vector: what a compiled graph hands out costs time by the tensor.

    Args:
        plan: Of the call.
        views: What every reading reads.
        targets: The leaves of the targets.
        given: Totaled denominators, or None.

    Returns:
        The numerators, and the sums without them; None, and the sums with them, where they differ in dtype or device.
    """
    sums = evaluate(plan, views, targets, given)
    numerators = [numerator for each in sums for numerator in each.numerators]
    if any(each.dtype != numerators[0].dtype or each.device != numerators[0].device for each in numerators):
        return None, sums
    return torch.stack(numerators), [each.having(numerators=()) for each in sums]


def with_numerators(sums: Sequence[Sums], top: Tensor | None) -> Sequence[Sums]:
    """Gives sums their numerators back.

    Args:
        sums: From `evaluate_as_one`.
        top: Their numerators; None where they have them.

    Returns:
        The sums, as `evaluate` returns them.
    """
    if top is None:
        return sums
    numerators = iter(top.unbind())
    return [each.having(numerators=tuple(islice(numerators, len(each.denominators)))) for each in sums]


def _sums_of_term(
    plan: Plan, number: int, views: Sequence[Tensor], read: Sequence[ReadTarget], counts: Sequence[Number] | None
) -> Sums:
    term = plan.terms[number]
    numerators, denominators, smooth = [], [], 0.0
    for index, (call, level) in enumerate(zip(plan.calls[number], plan.level_of[number], strict=True)):
        reads = [views[edge] for edge in call]
        numerator, own, smooth = call_loss(plan, number, index, reads, read[level])
        denominator = own if counts is None else counts[level]
        assert denominator is not None
        numerators.append(numerator)
        denominators.append(denominator)
    pooled = term.levels is not None and term.levels.pool == "all"
    least = term.least if isinstance(term, Term) else 0.0
    return Sums(tuple(numerators), tuple(denominators), smooth, None, pooled, least)


def _counts(term: AnyTerm, read: Sequence[ReadTarget], given: Tensor | Ratio | None) -> Sequence[Number] | None:
    """What divides each level of the targets; None where the loss says it itself."""
    if isinstance(term, RatioTerm):
        return None
    if given is None:
        return [term.count(*each) for each in read]
    assert isinstance(given, Tensor)
    return _per_level(term, given, len(read))


def _per_level(term: AnyTerm, given: Tensor, num_levels: int) -> Sequence[Tensor]:
    """What divides each level, of a denominator for all or one for each."""
    if given.dim() == 0:
        return [given] * num_levels
    if given.shape != (num_levels,) or num_levels == 1:
        wanted = "a 0-d tensor" if num_levels == 1 else f"a 0-d tensor, or one element for each of {num_levels} levels"
        raise ValueError(f"term {term.name!r}: its denominator is {wanted}; found {describe(given)}")
    return given.unbind()


def call_loss(
    plan: Plan, number: int, index: int, reads: list[Tensor], read: ReadTarget, function: Any = None
) -> tuple[Tensor, Tensor | None, float]:
    """Calls one loss; whatever it raises is told with the term's name, paths, dtypes and shapes.

    Args:
        plan: Of the call.
        number: Which term.
        index: Which of its calls, one a level of the outputs.
        reads: What it reads of the outputs.
        read: Its targets and mask there.
        function: What stands in for the loss, or None.

    Returns:
        The sum; of a `RatioTerm` what divides it, else None; and what smooths that.

    Raises:
        ValueError: The loss raised, or did not return a sum.
    """
    term, (targets, mask) = plan.terms[number], read
    try:
        return _sums_of(term, term.call(reads, targets, mask, function))
    except Exception as error:
        if torch.compiler.is_compiling() or isinstance(error, torch.OutOfMemoryError) or _is_of_checkpoints(error):
            raise
        paths = [plan.layout.edges[edge].path for edge in plan.calls[number][index]]
        found = [f"output {path!r} is {describe(tensor)}" for path, tensor in zip(paths, reads, strict=True)]
        found += [
            f"target {str(path)!r} is {describe(tensor)}"
            for path, tensor in zip(term.targets.paths, targets, strict=True)
        ]
        found += [f"mask {term.mask!r} is {describe(mask)}"] if mask is not None else []
        raise ValueError(f"term {term.name!r}: {one_line(error)} ({'; '.join(found)})") from error


def _sums_of(term: AnyTerm, result: Any) -> tuple[Tensor, Tensor | None, float]:
    """Checks what a loss returned: its sum, and for a `RatioTerm` its own denominator and what smooths it."""
    if isinstance(term, RatioTerm) and not isinstance(result, Ratio):
        raise ValueError(f"the loss of a RatioTerm returns a Ratio; found {describe(result)}. Use Term for a sum")
    if isinstance(term, Term) and isinstance(result, Ratio):
        raise ValueError("the loss returned a Ratio; declare it as RatioTerm")
    if isinstance(result, Ratio) and not 0 <= result.smooth < math.inf:
        raise ValueError(f"a ratio is smoothed by a finite number from 0; found {result.smooth}")
    numerator: Any = result.numerator if isinstance(result, Ratio) else result
    if is_number(numerator):
        numerator = torch.tensor(float(numerator), dtype=torch.float32)
    is_sum = isinstance(numerator, Tensor) and not numerator.dim() and numerator.layout == torch.strided
    if not is_sum or not numerator.is_floating_point():
        raise ValueError(
            f"a loss returns one floating point sum, a 0-d tensor; found {describe(numerator)}. "
            "Sum the elements (.sum()) and let the normalizer divide"
        )
    if not isinstance(result, Ratio):
        return numerator, None, 0.0
    count = as_count(result.denominator, trusted=True)
    if not isinstance(count, Tensor):
        count = numerator.new_full((), count)
    return numerator, _not_negative(count), result.smooth


def _not_negative(count: Tensor) -> Tensor:
    """A ratio's own denominator, of the prediction: that it is NaN is for the books to tell, below 0 is a mistake."""
    negative = count.detach() < 0
    if is_seen(count):
        if negative:
            raise ValueError(f"what divides a loss is a number from 0; found {float(count.detach())}")
        return count
    return torch.where(negative, torch.nan, count)


def _is_of_checkpoints(error: Exception) -> bool:
    """Whether it is how a checkpoint ends a recomputation that has what it needs."""
    return type(error).__module__ == "torch.utils.checkpoint"


def denominator_of(term: Term, readers: Iterable[ReadTargets], targets: Sequence[Tensor]) -> Tensor:
    """What divides a term, from its targets: 0-d, or one element a level of the targets."""
    counts = []
    for reader in readers:
        read, mask = reader(targets)
        with torch.no_grad():
            count = term.count(read, mask)
        device = next((each.device for each in (*read, mask) if each is not None), torch.device("cpu"))
        counts.append(count if isinstance(count, Tensor) else vector([count], book_dtype(device), device)[0])
    return counts[0] if len(counts) == 1 else torch.stack(counts)
