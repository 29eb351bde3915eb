"""Reading rows of booked numbers: from squared norms and factors back to what they mean."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from headwise.attribution.ledger.books import Books, FeatureBooks, LevelBooks, OutputBooks, TermBooks
from headwise.criterion.junction import SEED_COLUMNS
from headwise.criterion.layout import Layout
from headwise.criterion.stats import num_columns


@dataclass(frozen=True)
class Columns:
    """What the columns of a row mean: the seed's, the junctions', then those of the junctions at features."""

    layouts: tuple[Layout, ...]
    channels: bool
    features: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms."""
        return self.layouts[0].terms

    @property
    def sizes(self) -> tuple[int, ...]:
        """Columns of every term's seed, then of each junction at the outputs."""
        seeds = [len(SEED_COLUMNS) + len(levels) for levels in self.layouts[0].levels]
        return (*seeds, *(num_columns(layout, self.channels) for layout in self.layouts))


@dataclass(frozen=True)
class Step:
    """The rows of one step: one for each criterion call.

    Args:
        number: Number of the step.
        columns: What the columns mean.
        rows: (calls, columns), on the host.
        pooled: Whether the calls' denominators were totalled over the step.
        scope: "local", or "global" if the rows are those of all ranks.
    """

    number: int
    columns: Columns
    rows: Tensor
    pooled: bool
    scope: str = "local"


_AtLevels = dict[tuple[int, int], list[OutputBooks]]  # by the numbers of term and level


@dataclass(frozen=True)
class _Seeds:
    """The seed's columns of a step, pooled over its calls.

    Args:
        calls: How many backward passes went through each term.
        value: The term's value in the step.
        weight: Its weight.
        unit: What a booked square is multiplied by, so that the loop's factor disappears.
        levels: Per term the values of its levels, level weights included.
    """

    calls: Tensor
    value: Tensor
    weight: Tensor
    unit: Tensor
    levels: tuple[Tensor, ...]


def read_steps(steps: Iterable[Step]) -> list[Books]:
    """Turns steps into books.

    Args:
        steps: The steps' rows.

    Returns:
        The books, in the same order.
    """
    return [_read(step) for step in steps]


def _read(step: Step) -> Books:
    columns, rows = step.columns, step.rows.double()
    num_terms = len(columns.terms)
    numbers = torch.split(rows[:, : sum(columns.sizes)], list(columns.sizes), dim=1)
    seeds, parts = _seeds(step, numbers[:num_terms]), numbers[num_terms:]
    outputs: dict[int, dict[str, OutputBooks]] = {number: {} for number in range(num_terms)}
    at_levels: _AtLevels = defaultdict(list)
    sums: dict[tuple[str, str], Tensor] = {}
    for layout, part in zip(columns.layouts, parts, strict=True):
        _read_outputs(layout, columns.channels, seeds, part, outputs, at_levels)
        _add_products(layout, seeds, part, sums)
    terms = {name: _term(seeds, number, outputs[number]) for number, name in enumerate(columns.terms)}
    total = math.fsum(t.weighted for t in terms.values()) if all(t.finite for t in terms.values()) else math.nan
    shares = {
        name: replace(
            term,
            share=term.weighted / total if total else 0.0,
            levels=_levels(columns, seeds, number, at_levels, total),
        )
        for number, (name, term) in enumerate(terms.items())
    }
    features = _features(columns, seeds, rows[:, sum(columns.sizes) :])
    return Books(
        step.number,
        shares,
        {pair: float(numbers[0]) for pair, numbers in sums.items()},
        {pair: _cosine(numbers) for pair, numbers in sums.items()},
        features,
        step.scope,
    )


def _seeds(step: Step, numbers: Sequence[Tensor]) -> _Seeds:
    width = len(SEED_COLUMNS)
    calls, _, squared, value, weight = torch.stack([each[:, :width] for each in numbers], dim=2).unbind(1)
    times = calls.clamp(min=1)
    value, weight = value / times, weight / times
    seen = (calls > 0).sum(0).clamp(min=1)
    mean = value.sum(0) / (1 if step.pooled else seen)
    # A step's gradient is the sum over its calls (pooled) or their mean; one squared factor f^2 is in every square.
    factor = torch.where(squared > 0, squared, 1.0)
    unit = 1.0 / factor / (1 if step.pooled else seen.square())
    levels = tuple(
        (each[:, width:] / times[:, term, None]).sum(0) / (1 if step.pooled else seen[term])
        for term, each in enumerate(numbers)
    )
    return _Seeds(calls.sum(0), mean, weight.sum(0) / seen, unit, levels)


def _read_outputs(
    layout: Layout,
    channels: bool,
    seeds: _Seeds,
    rows: Tensor,
    outputs: dict[int, dict[str, OutputBooks]],
    at_levels: _AtLevels,
) -> None:
    """Adds what one junction booked of each term at its outputs."""
    num = len(layout.edges)
    per_channel = 2 * num + 3 * len(layout.pairs)
    for number, edge in enumerate(layout.edges):
        unit = seeds.unit[:, edge.term]
        square = (rows[:, number] * unit).sum()
        finite = not bool(rows[:, num + number].sum() > 0)
        norms = None
        if channels:
            end = per_channel + edge.stop - edge.start
            norms = tuple(_root(each) for each in (rows[:, per_channel:end] * unit[:, None]).sum(0))
            per_channel = end
        found = OutputBooks(_root(square), finite, norms)
        at_levels[edge.term, edge.level].append(found)
        before = outputs[edge.term].get(edge.path)
        outputs[edge.term][edge.path] = found if before is None else _together(before, found)


def _together(one: OutputBooks, other: OutputBooks) -> OutputBooks:
    """Two readings of one output by one term, at two of its levels: the norm over both."""
    channels = None
    if one.channels is not None and other.channels is not None:
        channels = tuple(math.hypot(*pair) for pair in zip(one.channels, other.channels, strict=True))
    return OutputBooks(math.hypot(one.grad_norm, other.grad_norm), one.finite and other.finite, channels)


def _term(seeds: _Seeds, number: int, outputs: dict[str, OutputBooks]) -> TermBooks:
    value, weight = float(seeds.value[number]), float(seeds.weight[number])
    norm = math.hypot(*(each.grad_norm for each in outputs.values()))
    finite = math.isfinite(value) and all(each.finite for each in outputs.values())
    trained = bool(seeds.calls[number] > 0) or norm > 0
    return TermBooks(value, weight, value * weight if weight else 0.0, math.nan, norm, finite, trained, outputs)


def _levels(columns: Columns, seeds: _Seeds, number: int, at_levels: _AtLevels, total: float) -> dict[str, LevelBooks]:
    """The levels of one term: their values, and what they sent to the outputs that they read."""
    weight = float(seeds.weight[number])
    found = {}
    for level, (name, value) in enumerate(
        zip(columns.layouts[0].levels[number], seeds.levels[number].tolist(), strict=True)
    ):
        reads = at_levels[number, level]
        weighted = value * weight if weight else 0.0
        share = weighted / total if total else 0.0
        norm = math.hypot(*(each.grad_norm for each in reads))
        finite = math.isfinite(value) and all(each.finite for each in reads)
        found[name] = LevelBooks(value, weighted, share, norm, finite)
    return found


def _add_products(layout: Layout, seeds: _Seeds, rows: Tensor, sums: dict[tuple[str, str], Tensor]) -> None:
    """Adds the inner products and squared norms over what two terms both read at one junction."""
    begin = 2 * len(layout.edges)
    for pair in layout.pairs:
        terms = layout.edges[pair.left].term, layout.edges[pair.right].term
        left, right = seeds.unit[:, terms[0]], seeds.unit[:, terms[1]]
        units = torch.stack([(left * right).sqrt(), left, right], dim=1)
        numbers = (rows[:, begin : begin + 3] * units).sum(0)
        names = layout.terms[terms[0]], layout.terms[terms[1]]
        sums[names] = sums[names] + numbers if names in sums else numbers
        begin += 3


def _features(columns: Columns, seeds: _Seeds, rows: Tensor) -> dict[str, FeatureBooks]:
    found, begin = {}, 0
    # total.backward() multiplies all terms by one factor; a term without a backward pass has unit 1.
    unit = seeds.unit.amin(dim=1, keepdim=True)
    for name, readers in columns.features:
        num, pairs = len(readers), list(combinations(readers, 2))
        squares = (rows[:, begin : begin + num] * unit).sum(0)
        infinite = rows[:, begin + num : begin + 2 * num].sum(0) > 0
        products = rows[:, begin + 2 * num : begin + 2 * num + 3 * len(pairs)].sum(0).view(-1, 3)
        found[name] = FeatureBooks(
            {reader: _root(square) for reader, square in zip(readers, squares, strict=True)},
            {reader: not bool(flag) for reader, flag in zip(readers, infinite, strict=True)},
            {pair: _cosine(numbers) for pair, numbers in zip(pairs, products, strict=True)},
        )
        begin += 2 * num + 3 * len(pairs)
    return found


def _cosine(numbers: Tensor) -> float | None:
    inner, left, right = numbers.tolist()
    scale = math.sqrt(left) * math.sqrt(right) if left >= 0 and right >= 0 else math.nan
    return inner / scale if scale > 0 and math.isfinite(inner / scale) else None


def _root(square: Tensor) -> float:
    return math.sqrt(number) if (number := float(square)) >= 0 else math.nan
