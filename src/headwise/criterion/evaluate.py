"""The arithmetic of one criterion call: a pure function of tensors along a plan, so that it compiles as one graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headwise.criterion.binding import Binding
from headwise.criterion.junction import Policy, seed, split
from headwise.criterion.layout import Part, whole
from headwise.criterion.plan import Plan
from headwise.criterion.stats import sum_dtype
from headwise.criterion.term import AnyTerm, Term, one_line, sums_of
from headwise.ratio import Ratio
from headwise.structure import describe


class Job(NamedTuple):
    """What of a call does not change with the data."""

    terms: tuple[AnyTerm, ...]
    plan: Plan
    policy: Policy
    channels: bool

    @property
    def parts(self) -> tuple[Part, ...]:
        """The junctions: one an output, or one for all where the policy must judge a term as a whole."""
        return self.plan.parts if self.policy == "keep" else whole(self.plan.layout)


class Row(NamedTuple):
    """One term's results."""

    value: Tensor
    weighted: Tensor
    numerator: Tensor
    denominator: Tensor
    levels: Tensor | None
    smooth: float


Weights = Sequence[float | Tensor]
LevelWeights = Sequence[Sequence[float] | Tensor]


def run(
    job: Job,
    roots: Sequence[Tensor],
    targets: Any,
    denominators: Mapping[str, Tensor | Ratio] | None,
    weights: Weights,
    level_weights: LevelWeights,
    slots: Sequence[Tensor] | None,
) -> tuple[list[Row], Tensor]:
    """Evaluates all terms.

    Args:
        job: Terms, plan and policy.
        roots: The output tensors, in the plan's order.
        targets: The nested targets.
        denominators: Totalled denominators (and ratios of a `RatioTerm`), or None.
        weights: One weight a term.
        level_weights: One weight a level, per term.
        slots: The leaves of the books (of every term's seed, then of each junction), or None.

    Returns:
        A row per term, and the total.
    """
    views, token = _hand_out(job, roots, slots)
    results = []
    for number, term in enumerate(job.terms):
        given = None if denominators is None else denominators.get(term.name)
        ratios = _ratios(job, number, views, targets, given)
        results.append(_combine(term, ratios, level_weights[number], given))
    weighted = [_weigh(value, weight) for (value, _, _), weight in zip(results, weights, strict=True)]
    if slots is not None:
        weighted = [
            seed(slot, value.detach(), torch.as_tensor(weight).detach().to(value), _detached(levels), each)
            for slot, (value, _, levels), weight, each in zip(slots, results, weights, weighted, strict=False)
        ]
    total = weighted[0]
    for each in weighted[1:]:
        total = total + each
    rows = [
        Row(value, each, ratio.numerator, ratio.denominator, levels, ratio.smooth)
        for (value, ratio, levels), each in zip(results, weighted, strict=True)
    ]
    return rows, total + token.to(sum_dtype(total.dtype))


def _detached(levels: Tensor | None) -> Tensor | None:
    return None if levels is None else levels.detach()


def _hand_out(job: Job, roots: Sequence[Tensor], slots: Sequence[Tensor] | None) -> tuple[list[Tensor], Tensor]:
    """One view a reading, and the zero that joins the total to every output."""
    views = [roots[0]] * len(job.plan.layout.edges)
    tokens = []
    for number, part in enumerate(job.parts):
        slot = None if slots is None else slots[len(job.terms) + number]
        closed = [index for index, edge in enumerate(part.layout.edges) if job.terms[edge.term].closed_form]
        *read, token = split(part.layout, job.policy, job.channels, slot, [roots[root] for root in part.roots], closed)
        tokens.append(token)
        for edge, each in zip(part.edges, read, strict=True):
            views[edge] = each
    return views, tokens[0] if len(tokens) == 1 else torch.stack([token.to(tokens[0]) for token in tokens]).sum()


def denominator_of(term: Term, bindings: Sequence[Binding], targets: Any) -> Tensor:
    """What divides a term: 0-d, or one element a level of the targets."""
    counts = []
    for binding in bindings:
        read, mask = binding.read(targets)
        count = term.count(read, mask)
        device = next((each.device for each in (*read, mask) if each is not None), None)
        counts.append(count if isinstance(count, Tensor) else torch.tensor(count, dtype=torch.float64, device=device))
    return counts[0] if len(counts) == 1 else torch.stack(counts)


def _ratios(job: Job, number: int, views: Sequence[Tensor], targets: Any, given: Tensor | Ratio | None) -> list[Ratio]:
    """The ratio of each level of one term."""
    term, plan = job.terms[number], job.plan
    read = [binding.read(targets) for binding in plan.bindings[number]]
    counts = None
    if isinstance(term, Term):
        assert not isinstance(given, Ratio)
        count = denominator_of(term, plan.bindings[number], targets) if given is None else given
        counts = [count if count.dim() == 0 else count[level] for level in plan.level_of[number]]
    ratios = []
    for index, (call, level) in enumerate(zip(plan.calls[number], plan.level_of[number], strict=True)):
        paths = [plan.layout.edges[edge].path for edge in call]
        numerator, own, smooth = _call(term, [views[edge] for edge in call], paths, *read[level])
        denominator = counts[index] if counts is not None else own
        assert denominator is not None
        if term.levels is None or term.levels.pool == "each":
            least = _least(term)
            denominator = denominator.clamp(min=least) if least else denominator
        ratios.append(Ratio(numerator, denominator.to(numerator.device), smooth))
    return ratios


def _call(
    term: AnyTerm, reads: list[Tensor], paths: list[str], targets: list[Tensor], mask: Tensor | None
) -> tuple[Tensor, Tensor | None, float]:
    """Calls one loss; whatever it refuses is told with the term's name, paths, dtypes and shapes."""
    try:
        return sums_of(term, term.call(reads, targets, mask))
    except Exception as error:
        if torch.compiler.is_compiling() or isinstance(error, torch.OutOfMemoryError):
            raise
        found = [f"output {path!r} is {describe(read)}" for path, read in zip(paths, reads, strict=True)]
        found += [
            f"target {str(path)!r} is {describe(target)}"
            for path, target in zip(term.targets.paths, targets, strict=True)
        ]
        found += [f"mask {term.mask!r} is {describe(mask)}"] if mask is not None else []
        raise ValueError(f"term {term.name!r}: {one_line(error)} ({'; '.join(found)})") from error


def _least(term: AnyTerm) -> float:
    return term.least if isinstance(term, Term) else 0.0


def _combine(
    term: AnyTerm, ratios: list[Ratio], weights: Sequence[float] | Tensor, pooled: Tensor | Ratio | None
) -> tuple[Tensor, Ratio, Tensor | None]:
    """The value of a term, the sums behind it, and the values of its levels; a share of a pooled ratio."""
    if term.num_wildcards == 0:
        ratio = ratios[0].within(pooled) if isinstance(pooled, Ratio) else ratios[0]
        return ratio.value, ratio, None
    numerator = torch.stack([ratio.numerator for ratio in ratios])
    count = torch.stack([ratio.denominator.to(numerator.dtype) for ratio in ratios])
    scale = torch.as_tensor(weights, dtype=numerator.dtype).to(numerator.device)
    if term.levels is not None and term.levels.pool == "all":
        total = count.sum().clamp(min=_least(term))
        ratio, scale = Ratio(numerator * scale, total.expand_as(numerator), ratios[0].smooth), torch.ones_like(scale)
    else:
        ratio = Ratio(numerator, count, ratios[0].smooth)
    ratio = ratio.within(pooled) if isinstance(pooled, Ratio) else ratio
    levels = ratio.value * scale
    return levels.sum(), ratio, levels


def _weigh(value: Tensor, weight: float | Tensor) -> Tensor:
    """``weight * value``; 0 with a zero gradient for weight 0, whatever the value."""
    scale = torch.as_tensor(weight, dtype=value.dtype).to(value.device)
    return torch.where(scale == 0, torch.zeros_like(value), value * scale)
