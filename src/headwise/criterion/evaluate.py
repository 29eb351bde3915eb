"""The arithmetic of one criterion call, along a plan: outputs and targets in, every term's sums out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headwise.criterion.binding import Binding
from headwise.criterion.checks import per_level
from headwise.criterion.combine import Number, Sums, vector
from headwise.criterion.plan import Plan
from headwise.criterion.stats import book_dtype
from headwise.criterion.term import AnyTerm, RatioTerm, Term, one_line, sums_of
from headwise.ratio import Ratio
from headwise.structure import describe


class Job(NamedTuple):
    """What of a call does not change with the data.

    Args:
        terms: The terms.
        plan: Where they read.
    """

    terms: tuple[AnyTerm, ...]
    plan: Plan


Denominators = Mapping[str, Tensor | Ratio]


def evaluate(job: Job, views: Sequence[Tensor], targets: Sequence[Tensor], given: Denominators | None) -> list[Sums]:
    """Evaluates the losses and counts of all terms; a function of tensors alone, so that it compiles as one graph.

    Args:
        job: Terms and plan.
        views: What every reading reads.
        targets: The leaves of the targets.
        given: Totalled denominators (and ratios of a `RatioTerm`), or None.

    Returns:
        Each term's sums; the weights of its levels are not among them.
    """
    return [
        _sums_of_term(job, number, views, targets, None if given is None else given.get(term.name))
        for number, term in enumerate(job.terms)
    ]


def _sums_of_term(
    job: Job, number: int, views: Sequence[Tensor], targets: Sequence[Tensor], given: Tensor | Ratio | None
) -> Sums:
    term, plan = job.terms[number], job.plan
    read = [binding(targets) for binding in plan.bindings[number]]
    counts = _counts(term, read, given)
    numerators, denominators, smooth = [], [], 0.0
    for index, (call, level) in enumerate(zip(plan.calls[number], plan.level_of[number], strict=True)):
        reads = [views[edge] for edge in call]
        numerator, own, smooth = call_loss(job, number, index, reads, read[level])
        denominator = own if counts is None else counts[level]
        assert denominator is not None
        numerators.append(numerator)
        denominators.append(denominator)
    pooled = term.levels is not None and term.levels.pool == "all"
    least = term.least if isinstance(term, Term) else 0.0
    return Sums(tuple(numerators), tuple(denominators), smooth, None, pooled, least)


def _counts(
    term: AnyTerm, read: Sequence[tuple[list[Tensor], Tensor | None]], given: Tensor | Ratio | None
) -> Sequence[Number] | None:
    """What divides each level of the targets; None where the loss says it itself."""
    if isinstance(term, RatioTerm):
        return None
    if given is None:
        return [term.count(*each) for each in read]
    assert isinstance(given, Tensor)
    return per_level(term, given, len(read))


def call_loss(
    job: Job, number: int, index: int, reads: list[Tensor], read: tuple[list[Tensor], Tensor | None]
) -> tuple[Tensor, Tensor | None, float]:
    """Calls one loss; whatever it raises is told with the term's name, paths, dtypes and shapes.

    Args:
        job: Terms and plan.
        number: Which term.
        index: Which of its calls, one a level of the outputs.
        reads: What it reads of the outputs.
        read: Its targets and mask there.

    Returns:
        The sum; of a `RatioTerm` what divides it, else None; and what smooths that.

    Raises:
        ValueError: The loss raised, or did not return a sum.
    """
    term, (targets, mask) = job.terms[number], read
    try:
        return sums_of(term, term.call(reads, targets, mask))
    except Exception as error:
        if torch.compiler.is_compiling() or isinstance(error, torch.OutOfMemoryError):
            raise
        paths = [job.plan.layout.edges[edge].path for edge in job.plan.calls[number][index]]
        found = [f"output {path!r} is {describe(tensor)}" for path, tensor in zip(paths, reads, strict=True)]
        found += [
            f"target {str(path)!r} is {describe(tensor)}"
            for path, tensor in zip(term.targets.paths, targets, strict=True)
        ]
        found += [f"mask {term.mask!r} is {describe(mask)}"] if mask is not None else []
        raise ValueError(f"term {term.name!r}: {one_line(error)} ({'; '.join(found)})") from error


def denominator_of(term: Term, bindings: Sequence[Binding], targets: Any) -> Tensor:
    """What divides a term, from its targets: 0-d, or one element a level of the targets."""
    counts = []
    for binding in bindings:
        read, mask = binding.read(targets)
        count = term.count(read, mask)
        device = next((each.device for each in (*read, mask) if each is not None), torch.device("cpu"))
        counts.append(count if isinstance(count, Tensor) else vector([count], book_dtype(device), device)[0])
    return counts[0] if len(counts) == 1 else torch.stack(counts)
