"""Reading rows of booked numbers: from squared norms and factors back to what they mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from headwise.attribution.books import Books, FeatureBooks, OutputBooks, TermBooks
from headwise.criterion.junction import SEED_COLUMNS, num_columns
from headwise.criterion.layout import Layout


@dataclass(frozen=True)
class Columns:
    """What the columns of a row mean: the seed's, the junction's, then those of the junctions at features."""

    layout: Layout
    channels: bool
    features: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def num_seed(self) -> int:
        """Columns of the seed."""
        return len(SEED_COLUMNS) * len(self.layout.terms)

    @property
    def num_split(self) -> int:
        """Columns of the junction at the outputs."""
        return num_columns(self.layout, self.channels)


@dataclass(frozen=True)
class Step:
    """The rows of one step: one for each criterion call.

    Args:
        number: Number of the step.
        columns: What the columns mean.
        rows: (calls, columns), on the host.
        pooled: Whether the calls' denominators were totalled over the step.
    """

    number: int
    columns: Columns
    rows: Tensor
    pooled: bool


@dataclass(frozen=True)
class _Seeds:
    """The seed's columns of a step, pooled over its calls.

    Args:
        calls: How many backward passes went through each term.
        value: The term's value in the step.
        weight: Its weight.
        unit: What a booked square is multiplied by, so that the loop's factor disappears.
    """

    calls: Tensor
    value: Tensor
    weight: Tensor
    unit: Tensor


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
    seeds = _seeds(step, rows[:, : columns.num_seed])
    split = rows[:, columns.num_seed : columns.num_seed + columns.num_split]
    terms = _terms(columns, seeds, split)
    total = math.fsum(t.weighted for t in terms.values()) if all(t.finite for t in terms.values()) else math.nan
    shares = {name: replace(t, share=t.weighted / total if total else 0.0) for name, t in terms.items()}
    features = _features(columns, seeds, rows[:, columns.num_seed + columns.num_split :])
    return Books(step.number, shares, _cosines(columns.layout, seeds, split), features)


def _seeds(step: Step, rows: Tensor) -> _Seeds:
    num = len(step.columns.layout.terms)
    calls, _, squared, value, weight = rows.view(len(rows), len(SEED_COLUMNS), num).unbind(1)
    times = calls.clamp(min=1)
    value, weight = value / times, weight / times
    seen = (calls > 0).sum(0).clamp(min=1)
    mean = value.sum(0) / (1 if step.pooled else seen)
    # A step's gradient is the sum over its calls (pooled) or their mean; one squared factor f^2 is in every square.
    factor = torch.where(squared > 0, squared, 1.0)
    unit = 1.0 / factor / (1 if step.pooled else seen.square())
    return _Seeds(calls.sum(0), mean, weight.sum(0) / seen, unit)


def _terms(columns: Columns, seeds: _Seeds, rows: Tensor) -> dict[str, TermBooks]:
    layout = columns.layout
    num_edges = len(layout.edges)
    owner = torch.tensor([edge.term for edge in layout.edges])
    squares = (rows[:, :num_edges] * seeds.unit[:, owner]).sum(0)
    infinite = rows[:, num_edges : 2 * num_edges].sum(0) > 0
    channels = _channels(columns, seeds, rows)
    found = {}
    for number, name in enumerate(layout.terms):
        edges = [index for index, edge in enumerate(layout.edges) if edge.term == number]
        outputs = {
            layout.edges[index].path: OutputBooks(_root(squares[index]), not bool(infinite[index]), channels[index])
            for index in edges
        }
        value, weight = float(seeds.value[number]), float(seeds.weight[number])
        finite = math.isfinite(value) and all(each.finite for each in outputs.values())
        norm = _root(squares[edges].sum())
        trained = bool(seeds.calls[number] > 0) or norm > 0
        found[name] = TermBooks(value, weight, value * weight if weight else 0.0, math.nan, norm, finite, trained, outputs)
    return found


def _channels(columns: Columns, seeds: _Seeds, rows: Tensor) -> list[tuple[float, ...] | None]:
    layout = columns.layout
    if not columns.channels:
        return [None] * len(layout.edges)
    begin, found = 2 * len(layout.edges) + 3 * len(layout.pairs), []
    for edge in layout.edges:
        end = begin + edge.stop - edge.start
        squares = (rows[:, begin:end] * seeds.unit[:, edge.term, None]).sum(0)
        found.append(tuple(_root(square) for square in squares))
        begin = end
    return list(found)


def _cosines(layout: Layout, seeds: _Seeds, rows: Tensor) -> dict[tuple[str, str], float | None]:
    """Cosines over what both terms read."""
    sums: dict[tuple[int, int], Tensor] = {}
    begin = 2 * len(layout.edges)
    for pair in layout.pairs:
        terms = layout.edges[pair.left].term, layout.edges[pair.right].term
        left, right = seeds.unit[:, terms[0]], seeds.unit[:, terms[1]]
        units = torch.stack([(left * right).sqrt(), left, right], dim=1)
        numbers = (rows[:, begin : begin + 3] * units).sum(0)
        sums[terms] = sums.get(terms, torch.zeros(3, dtype=rows.dtype)) + numbers
        begin += 3
    return {(layout.terms[i], layout.terms[j]): _cosine(numbers) for (i, j), numbers in sums.items()}


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
