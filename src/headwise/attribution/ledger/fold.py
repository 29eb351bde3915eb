"""From the sums of a step's rows to its books."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from headwise.attribution.gram import Gram, Where, add_total
from headwise.attribution.ledger.books import (
    Books,
    FeatureBooks,
    LevelBooks,
    LoopFactor,
    OutputBooks,
    TermBooks,
    Unbooked,
)
from headwise.attribution.ledger.ring import StepRows
from headwise.attribution.ledger.schema import Feature, Schema


@dataclass(frozen=True)
class _StepNumbers:
    """A step's numbers, the loop's factor divided out.

    Args:
        factor: The loop's factor, and how it is known.
        common: What sums over the step are divided by.
        weights: (T,).
        values: (T,).
        per_call: What a sum over calls is divided by before it is compared with a value: their number, or 1.
    """

    factor: LoopFactor
    common: float
    weights: Tensor
    values: Tensor
    per_call: float

    def of_square(self, square: float) -> float:
        """A square or product without the factor; divided twice, for the factor's own square may be beyond numbers."""
        return square / self.common / self.common


def fold(step: StepRows) -> Books:
    """Makes the books of a step.

    Args:
        step: The sum of its rows.

    Returns:
        The books.
    """
    schema, fields = step.schema, step.schema.read(step.row)
    scales = _scales(step, fields)
    booked = {name: _booked(fields[f"booked {name}"].tolist(), step, fields, scales) for name in schema.booked}
    gram = _with_booked(_gram(step, fields, scales), booked)
    weighted = torch.where(scales.weights == 0, 0.0, scales.weights * scales.values)
    size = math.fsum([float(weighted.abs().sum()), *(abs(each.weighted) for each in booked.values())])
    unbooked = _unbooked(step, fields, scales, size)
    readings = _readings(schema, fields, scales)
    terms = {}
    for number, name in enumerate(schema.terms):
        outputs = _outputs(schema, number, fields, scales, readings)
        finite_gradient = all(each.finite for each in outputs.values())
        value = float(scales.values[number])
        part = float(weighted[number])
        terms[name] = TermBooks(
            value,
            float(scales.weights[number]),
            part,
            part / size if size else 0.0,
            gram.norm(name),
            math.isfinite(value) and finite_gradient,
            bool(fields["trained"][number] > 0) or gram.norm(name) > 0,
            outputs,
            _levels(schema, number, fields, scales, readings, size),
            float(fields["count"][number]) / scales.per_call,
        )
    for name, each in booked.items():
        terms[name] = replace(each, share=each.weighted / size if size else 0.0)
    features = {each.name: _feature(step, each, fields, scales) for each in schema.features}
    aggregated = _aggregated(step, fields, gram) if schema.aggregated else None
    return Books(step.number, terms, gram, unbooked, scales.factor, features, step.scope, aggregated)


def _booked(columns: list[float], step: StepRows, fields: dict[str, Tensor], scales: _StepNumbers) -> TermBooks:
    """A loss that was booked in the middle of the network, but for its share."""
    value, weight, factor, factored, square, bad, calls = columns
    every = calls == float(fields["calls"])
    sums = factor / (calls if step.pooled else 1.0)
    value = value if calls == 1 else factored / sums if sums else value / calls
    weighted = factored / scales.common
    if every:
        weight = weight / calls if scales.factor.known == "seen" else sums / scales.common
    else:  # micro-batches without it count as zeros
        weight = weighted / value if value else weight / calls
    norm = _root(square) / abs(scales.common)
    return TermBooks(value, weight, weighted, 0.0, norm, bad == 0, factor != 0 or norm > 0, {})


def _with_booked(gram: Gram, booked: dict[str, TermBooks]) -> Gram:
    """A table with a place more for each loss that was booked in the middle of the network."""
    if not booked:
        return gram
    terms, sites, more = len(gram.terms), len(gram.sites), len(booked)
    products = torch.full((sites + more, terms + more + 1, terms + more + 1), math.nan, dtype=torch.float64)
    kept = [*range(terms), terms + more]
    for site in range(sites):
        products[site][torch.tensor(kept)[:, None], torch.tensor(kept)] = gram.products[site]
    finite = torch.ones(sites + more, terms + more, dtype=torch.bool)
    finite[:sites, :terms] = gram.finite
    for number, each in enumerate(booked.values()):
        products[sites + number, terms + number, terms + number] = each.grad_norm**2
        finite[sites + number, terms + number] = each.finite
    values, weights = (
        torch.cat([have, torch.tensor([getattr(each, name) for each in booked.values()], dtype=torch.float64)])
        for have, name in ((gram.values, "value"), (gram.weights, "weight"))
    )
    return Gram((*gram.terms, *booked), (*gram.sites, *booked), products, finite, values, weights, gram.where)


def _aggregated(step: StepRows, fields: dict[str, Tensor], gram: Gram) -> Gram:
    """The Jacobian that was aggregated in place of a backward pass: its rows' products, and what became of them."""
    names, num = step.schema.aggregated, len(step.schema.aggregated)
    products, weights, calls = torch.split(fields["jacobian"], [(num + 1) ** 2, num, 1])
    products = (products / calls).view(1, num + 1, num + 1)
    finite = products[0].diagonal()[:num].isfinite()[None]
    values = torch.tensor([float(gram.values[gram.terms.index(name)]) for name in names], dtype=torch.float64)
    where = Where("parameter", "global", step.number)
    return Gram(names, ("shared parameters",), products, finite, values, weights / calls, where)


def _scales(step: StepRows, fields: dict[str, Tensor]) -> _StepNumbers:
    calls = float(fields["calls"])
    per_call = calls if step.pooled else 1.0
    exact = bool(fields["exact"] == fields["calls"]) and float(fields["common"]) != 0
    if exact:
        factor = LoopFactor(float(fields["common"]) / per_call, "seen")
    else:
        given = float(fields["givens"])
        factor = LoopFactor(float(fields["given"]) / given, "given") if given else LoopFactor(1.0, "unknown")
    sums = fields["factor"] / per_call
    weights = fields["weight"] / calls if exact else sums / factor.value
    alone = fields["value"] / calls
    spread = fields["factored"] / torch.where(sums == 0, 1.0, sums)
    values = alone if calls == 1 else torch.where(sums == 0, alone, spread)
    return _StepNumbers(factor, factor.value, weights, values, per_call)


def _gram(step: StepRows, fields: dict[str, Tensor], scales: _StepNumbers) -> Gram:
    schema, num = step.schema, len(step.schema.terms)
    products = torch.full((len(schema.sites), num + 1, num + 1), math.nan, dtype=torch.float64)
    finite = torch.ones(len(schema.sites), num, dtype=torch.bool)
    for (site, reading), square, told in zip(
        schema.covered, fields["squares"].tolist(), fields["finite"].tolist(), strict=True
    ):
        term = schema.readings[reading].term
        _add(products, site, term, term, scales.of_square(square))
        finite[site, term] &= math.isfinite(square) or told > 0
    unknown = []
    pairs = zip(schema.compared, fields["products"].tolist(), fields["known"].tolist(), strict=True)
    for (site, left, right), product, known in pairs:
        a, b = schema.readings[left].term, schema.readings[right].term
        if not known:
            unknown.append((site, a, b))
            continue
        for one, other in ((a, b), (b, a)):
            _add(products, site, one, other, scales.of_square(product))
    for site, a, b in unknown:
        if a != b:
            products[site, a, b] = products[site, b, a] = math.nan
    add_total(products)
    sites = tuple(_site_name(schema, number) for number in range(len(schema.sites)))
    where = Where("output", "global" if step.scope == "global" else "local", step.number)
    return Gram(schema.terms, sites, products, finite, scales.values, scales.weights, where)


def _add(products: Tensor, site: int, left: int, right: int, number: float) -> None:
    before = float(products[site, left, right])
    products[site, left, right] = number if math.isnan(before) else before + number


@lru_cache(maxsize=4096)
def _site_name(schema: Schema, site: int) -> str:
    """A place by the paths that cover it, with a number where others of its output are covered by just those."""
    root = schema.sites[site][0]
    twins = [number for number, (other, _) in enumerate(schema.sites) if other == root]
    name = _paths_of(schema, site)
    return name if [_paths_of(schema, each) for each in twins].count(name) == 1 else f"{name} ({twins.index(site)})"


def _paths_of(schema: Schema, site: int) -> str:
    return " & ".join(sorted({schema.readings[each].path for each in schema.sites[site][1]}, key=lambda p: (len(p), p)))


@dataclass(frozen=True)
class _Sent:
    square: float
    finite: bool
    channels: tuple[float, ...] | None


def _readings(schema: Schema, fields: dict[str, Tensor], scales: _StepNumbers) -> list[_Sent]:
    """What each reading was sent, over all its places."""
    square: dict[int, float] = defaultdict(float)
    bad: dict[int, float] = defaultdict(float)
    for (_, reading), each, flag in zip(
        schema.covered, fields["squares"].tolist(), fields["finite"].tolist(), strict=True
    ):
        square[reading] += each
        bad[reading] += not (math.isfinite(each) or flag > 0)
    channels = torch.split(fields["channels"], [reading.num_channels for reading in schema.readings])
    size = abs(scales.common)
    return [
        _Sent(
            scales.of_square(square[number]),
            bad[number] == 0,
            tuple(_root(each) / size for each in channels[number].tolist()) if reading.num_channels else None,
        )
        for number, reading in enumerate(schema.readings)
    ]


def _outputs(
    schema: Schema, term: int, fields: dict[str, Tensor], scales: _StepNumbers, readings: list[_Sent]
) -> dict[str, OutputBooks]:
    """What one term sent to each path; what several levels send to one path is one gradient."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, reading in enumerate(schema.readings):
        if reading.term == term:
            numbers[reading.path].append(number)
    found = {}
    for path, same in numbers.items():
        square = sum(readings[number].square for number in same)
        if len(same) > 1:
            pairs = zip(schema.compared, fields["products"].tolist(), strict=True)
            square += sum(2 * scales.of_square(p) for (_, a, b), p in pairs if a in same and b in same)
        channels = readings[same[0]].channels if len(same) == 1 else None
        found[path] = OutputBooks(_root(square), all(readings[number].finite for number in same), channels)
    return found


def _levels(
    schema: Schema, term: int, fields: dict[str, Tensor], scales: _StepNumbers, readings: list[_Sent], size: float
) -> dict[str, LevelBooks]:
    """The levels of one term: their values, and what they sent to the outputs that they read."""
    names = schema.levels[term]
    if not names:
        return {}
    begin = sum(len(each) for each in schema.levels[:term])
    sums = float(fields["factor"][term]) / scales.per_call
    found = {}
    for level, name in enumerate(names):
        alone = float(fields["level values"][begin + level]) / float(fields["calls"])
        value = float(fields["levels"][begin + level]) / sums if sums else alone
        weight = float(scales.weights[term])
        read = [readings[n] for n, each in enumerate(schema.readings) if (each.term, each.level) == (term, level)]
        weighted = value * weight if weight else 0.0
        finite = math.isfinite(value) and all(each.finite for each in read)
        norm = math.sqrt(math.fsum(each.square for each in read)) if finite else math.nan
        found[name] = LevelBooks(value, weighted, weighted / size if size else 0.0, norm, finite)
    return found


def _unbooked(step: StepRows, fields: dict[str, Tensor], scales: _StepNumbers, size: float) -> Unbooked:
    """What the backward passes began with, and what arrived, beyond the terms."""
    booked = float(torch.where(fields["factor"] == 0, 0.0, fields["factored"]).sum())
    known = bool(fields["numbers"] == fields["calls"]) and math.isfinite(booked)
    value = (float(fields["number"]) - booked) / scales.common if known else math.nan
    norms = {
        path: _root(square) / abs(scales.common)
        for path, square in zip(step.schema.roots, fields["unbooked"].tolist(), strict=True)
    }
    sent = math.sqrt(float(fields["squares"].nansum())) / abs(scales.common)
    return Unbooked(value, norms, size, sent, known)


def _feature(step: StepRows, feature: Feature, fields: dict[str, Tensor], scales: _StepNumbers) -> FeatureBooks:
    found = [scales.of_square(each) for each in fields[f"feature {feature.name}"].tolist()]
    squares = {(reader, feature.name): each for reader, each in zip(feature.readers, found, strict=False)}
    pairs = zip(feature.pairs, found[len(feature.readers) :], strict=True)
    products = {(left, right, feature.name): each for (left, right), each in pairs}
    unknown = dict.fromkeys(feature.readers, math.nan)  # a head is no term: it has no value
    where = Where("feature", "global" if step.scope == "global" else "local", step.number)
    return FeatureBooks(Gram.of_pairs(squares, products, unknown, unknown, where))


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan
