"""Reading what was booked of code that is not ours: plain numbers, on the host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import torch

from headwise.attribution.apart.sums.solve import EXACT, weights_of
from headwise.attribution.apart.words import is_metric
from headwise.attribution.foreign.calls import REST, ForeignCall, ForeignPass, Key
from headwise.attribution.gram import Gram, Where
from headwise.attribution.ledger.books import UNBOOKED, Books, LoopFactor, OutputBooks, TermBooks, Unbooked
from headwise.attribution.ledger.passes.injected import BOOKED, merged

_STRAY = 1e-4
_SAME = 1e-4
"""How far a sum of values in float32 may be from the number, by its size."""


def read_calls(calls: Sequence[ForeignCall]) -> list[Books]:
    """Makes the books of calls, by one transfer to the host.

    Args:
        calls: The calls; each with at least one pass.

    Returns:
        Their books, in the same order.
    """
    passes = [each for call in calls for each in call.passes]
    if not passes:
        return []
    flat = torch.cat([each.numbers.to(passes[0].numbers) for each in passes]).tolist()
    found: dict[int, _Solved] = {}
    begin = 0
    for each in passes:
        end = begin + len(each.keys)
        found[id(each)] = _solve(each, dict(zip(each.keys, flat[begin:end], strict=True)))
        begin = end
    return [_books(call, [found[id(each)] for each in call.passes]) for call in calls]


@dataclass
class _Solved:
    """A pass on the host.

    Args:
        numbers: What was booked.
        paths: The outputs.
        weights: What each loss was multiplied by.
        weighted: What each adds to the number.
        scales: What each booked gradient is multiplied by.
        rest: What the row of the rest is multiplied by, and less which losses; None where nothing is left.
        value: The rest's value; NaN where it is not finite.
        known: Whether it is known.
    """

    numbers: Mapping[Key, float]
    paths: tuple[str, ...]
    weights: dict[str, float] = field(default_factory=dict)
    weighted: dict[str, float] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    rest: dict[str, float] | None = None
    value: float = 0.0
    known: bool = True

    def gram(self, left: str, right: str, path: str | None = None) -> float:
        """The inner product of two booked gradients, at one output or all."""
        paths = self.paths if path is None else (path,)
        keys = [("gram", each, *pair) for each in paths for pair in {(left, right), (right, left)}]
        return math.fsum(self.numbers[key] for key in keys if key in self.numbers)

    def reads(self, name: str, path: str) -> bool:
        """Whether something was booked for a loss at an output."""
        return ("gram", path, name, name) in self.numbers

    @property
    def strays(self) -> dict[str, float]:
        """Per output the squared norm of what arrived there and was not booked, where it is more than rounding."""
        found = {path: self.numbers.get(("unbooked", path), 0.0) for path in self.paths}
        sent = self.scales
        return {path: each for path, each in found.items() if each > _STRAY**2 * self.square(sent, path)}

    def square(self, weights: Mapping[str, float], path: str | None = None) -> float:
        """The squared norm of a sum of booked gradients."""
        pairs = [(a, b) for a in weights for b in weights]
        return math.fsum(weights[a] * weights[b] * self.gram(a, b, path) for a, b in pairs)


def _solve(booked: ForeignPass, numbers: Mapping[Key, float]) -> _Solved:
    solved = _Solved(numbers, booked.paths)
    for name in booked.names:
        factor = numbers.get(("factor", name))
        if factor is None:
            continue
        weighted = numbers.get(("weighted", name), math.nan)
        value = numbers.get(("value", name), 0.0)
        scaled = name in booked.scaled
        solved.weights[name] = weighted / value if not scaled and value and math.isfinite(weighted / value) else factor
        solved.weighted[name] = weighted
        solved.scales[name] = factor if scaled else 1.0
    for group, losses in enumerate(booked.copies):
        size = range(len(losses))
        products = [[numbers["product", group, a, b] for b in size] for a in size]
        found = weights_of(products, [numbers["arriving", group, a] for a in size], numbers["square", group])
        if found is not None:
            _add(solved, losses, found)
    _left_over(solved, booked)
    return solved


def _add(solved: _Solved, losses: Sequence[str], weights: Sequence[float]) -> None:
    for name, weight in zip(losses, weights, strict=True):
        solved.weights[name] = solved.scales[name] = weight
        solved.weighted[name] = weight * solved.numbers["value", name] if weight else 0.0


def _left_over(solved: _Solved, booked: ForeignPass) -> None:
    """What no loss explains; losses that were computed twice are recognized by gradient and value."""
    _computed_twice(solved, booked)
    copied = {name for group in booked.copies for name in group}
    known = {name: -solved.scales[name] for name in copied if name in solved.scales}
    number = solved.numbers.get(("number",), math.nan)
    blank = [name for name, each in solved.weighted.items() if math.isnan(each)]
    value = number - math.fsum(each for each in solved.weighted.values() if not math.isnan(each))
    if REST in booked.names:
        rest = {REST: 1.0, **known}
        whole, left = solved.square({REST: 1.0}), solved.square(rest)
        candidates = [name for name in booked.names if name not in solved.weights and name != REST]
        if left > 1e-9 * whole or not known:
            found = _again(solved, rest, candidates, left, value)
            if found is not None:
                _add(solved, list(found), list(found.values()))
                value -= math.fsum(solved.weighted[name] for name in found)
            else:
                solved.rest = rest
    if len(blank) == 1 and math.isfinite(value):
        solved.weighted[blank[0]], value = value, 0.0
    solved.value = value
    size = math.fsum(abs(each) for each in solved.weighted.values())
    solved.known = ("number",) in solved.numbers and math.isfinite(size)
    if solved.known and solved.rest is None and not abs(value) <= EXACT * max(size, abs(number)):
        solved.rest = {}


def _computed_twice(solved: _Solved, booked: ForeignPass) -> None:
    """Puts losses that were returned in the place of summands that have no name, where they are these once more."""
    losses = [name for name in booked.names if name not in solved.weights and name != REST]
    if booked.copies or REST in booked.names or not losses or not solved.scales:
        return
    summands, number = dict(solved.scales), solved.numbers.get(("number",), math.nan)
    found = _again(solved, summands, losses, solved.square(summands), number)
    if found is not None:
        for held in (solved.weights, solved.weighted, solved.scales):
            held.clear()
        _add(solved, list(found), list(found.values()))


def _again(
    solved: _Solved, rest: Mapping[str, float], losses: Sequence[str], square: float, value: float
) -> dict[str, float] | None:
    """Losses whose gradients, and values, add up to what is left."""
    sets = [list(losses), *([each] for each in losses)] if len(losses) > 1 else [list(losses)]
    for names in sets:
        if not names or not square > 0:
            continue
        products = [[solved.gram(a, b) for b in names] for a in names]
        arriving = [math.fsum(part * solved.gram(each, other) for other, part in rest.items()) for each in names]
        weights = weights_of(products, arriving, square)
        if weights is None:
            continue
        found = dict(zip(names, weights, strict=True))
        total = math.fsum(weight * solved.numbers["value", name] for name, weight in found.items())
        size = math.fsum(abs(weight * solved.numbers["value", name]) for name, weight in found.items())
        if math.isnan(value) or abs(total - value) <= _SAME * max(size, abs(value)):
            return {name: weight for name, weight in found.items() if abs(weight) > EXACT * max(map(abs, weights))}
    return None


def _books(call: ForeignCall, passes: Sequence[_Solved]) -> Books:
    common = _common(passes)
    names = [each.name for each in call.losses if any(each.name in solved.weights for solved in passes)]
    names += [name for solved in passes for name in solved.weights if name not in names]
    terms = {name: _term(name, passes, common) for name in dict.fromkeys(names)}
    terms |= _forgotten(passes, names)
    terms |= _inside(passes, common)
    if any(solved.rest is not None for solved in passes):
        terms[UNBOOKED] = _unbooked(passes, common)
    spoiled = {UNBOOKED} if UNBOOKED in terms and not math.isfinite(terms[UNBOOKED].weighted) else set()
    size = math.fsum(abs(each.weighted) for name, each in terms.items() if name not in spoiled)
    # Where the part of one summand is not known, no share is.
    share = {name: each.weighted / size if size else 0.0 for name, each in terms.items()}
    terms = {name: replace(each, share=share[name]) for name, each in terms.items()}
    return Books(
        call.step,
        terms,
        _gram(call.step, terms, passes, common),
        _strays(passes, size, common),
        LoopFactor(common, "seen" if any(("common",) in each.numbers for each in passes) else "unknown"),
        number=_number(terms, passes, common),
    )


def _number(terms: Mapping[str, TermBooks], passes: Sequence[_Solved], common: float) -> float:
    """What backward was called on, where terms whose parts nobody held leave no sum; NaN where one is not finite."""
    if not all(each.finite for each in terms.values()):
        return math.nan
    inside = math.fsum(each.weighted for each in _inside(passes, common).values())
    return inside + math.fsum(each.numbers.get(("number",), math.nan) for each in passes) / common


def _gram(step: int, terms: Mapping[str, TermBooks], passes: Sequence[_Solved], common: float) -> Gram:
    squares = {(name, path): each.grad_norm**2 for name, term in terms.items() for path, each in term.outputs.items()}
    inside = _inside(passes, common)
    squares |= {(name, name): each.grad_norm**2 for name, each in inside.items()}
    products: dict[tuple[str, str, str], float] = {}
    for left, right in combinations(terms, 2):
        both = [each for each in passes if left in each.scales and right in each.scales]
        for each in both[:1]:
            scale = each.scales[left] * each.scales[right] / common**2
            shared = [path for path in each.paths if each.reads(left, path) and each.reads(right, path)]
            products |= {(left, right, path): scale * each.gram(left, right, path) for path in shared}
    values = {name: term.value for name, term in terms.items()}
    weights = {name: term.weight for name, term in terms.items()}
    return Gram.of_pairs(squares, products, values, weights, Where(step=step))


def _strays(passes: Sequence[_Solved], size: float, common: float) -> Unbooked:
    """What arrived at outputs beyond what was booked there."""
    norms: dict[str, float] = {}
    for each in passes:
        for path, square in each.strays.items():
            norms[path] = math.hypot(norms.get(path, 0.0), math.sqrt(square) / abs(common))
    sent = math.sqrt(math.fsum(max(0.0, each.square(each.scales)) for each in passes)) / abs(common)
    return Unbooked(0.0, norms, size if math.isfinite(size) else 0.0, sent)


def _at_least_0(square: float) -> float:
    """A square that rounding may have made less; NaN, which `max` would hide, stays."""
    return 0.0 if square < 0 else square


def _common(passes: Sequence[_Solved]) -> float:
    """What the loop multiplied the returned total by, where all passes began at it."""
    found = {each.numbers.get(("common",), 1.0) for each in passes}
    common = found.pop() if len(found) == 1 else 1.0
    return common if common and math.isfinite(common) else 1.0


def _forgotten(passes: Sequence[_Solved], names: Sequence[str]) -> dict[str, TermBooks]:
    """Losses that were returned and that no pass went through."""
    values = {str(key[1]): value for each in passes for key, value in each.numbers.items() if key[0] == "absent"}
    return {
        name: TermBooks(value, 0.0, 0.0, 0.0, 0.0, math.isfinite(value), False, {})
        for name, value in values.items()
        if name not in names and not is_metric(name)
    }


def _inside(passes: Sequence[_Solved], common: float) -> dict[str, TermBooks]:
    """Losses that were booked inside of the network, by `book`."""
    rows: dict[str, list[list[float]]] = {}
    for each in passes:
        for name in dict.fromkeys(str(key[1]) for key in each.numbers if key[0] == "booked"):
            rows.setdefault(name, []).append([each.numbers["booked", name, what] for what in BOOKED])
    found = {}
    for name, columns in rows.items():
        one = merged([torch.tensor(each, dtype=torch.float64) for each in columns]).tolist()
        value, _, factor, factored, square, bad, _ = one
        norm = math.sqrt(square) / abs(common) if square >= 0 else math.nan
        trained = factor != 0 or norm > 0
        found[name] = TermBooks(value, factor / common, factored / common, 0.0, norm, bad == 0, trained, {})
    return found


def _term(name: str, passes: Sequence[_Solved], common: float) -> TermBooks:
    mine = [each for each in passes if name in each.weights]
    weight = math.fsum(each.weights[name] for each in mine) / common
    weighted = math.fsum(each.weighted[name] for each in mine) / common
    held = next((n for each in mine if (n := each.numbers.get(("value", name))) is not None), None)
    value = held if held is not None else weighted / weight if weight else math.nan
    scale = math.fsum(each.scales[name] for each in mine) / common
    outputs = {
        path: OutputBooks(abs(scale) * math.sqrt(_at_least_0(square)), math.isfinite(square))
        for path in mine[0].paths
        if mine[0].reads(name, path)
        for square in [mine[0].gram(name, name, path)]
    }
    # A value that nobody holds is not known, which is not the same as not finite.
    finite = (held is None or math.isfinite(held)) and all(each.finite for each in outputs.values())
    # Where what a loss reads was not found, neither is the gradient that it sends there.
    norm = math.hypot(*(each.grad_norm for each in outputs.values())) if outputs or not weight else math.nan
    return TermBooks(value, weight, weighted, 0.0, norm, finite, weight != 0 or norm > 0, outputs)


def _unbooked(passes: Sequence[_Solved], common: float) -> TermBooks:
    mine = [each for each in passes if each.rest is not None]
    value = math.fsum(each.value for each in mine if each.known) / common
    squares: dict[str, float] = {}
    for each in mine:
        for path in each.paths:
            square = each.square(each.rest or {}, path)
            if each.rest and each.reads(REST, path):
                squares[path] = squares.get(path, 0.0) + _at_least_0(square)
    outputs = {
        path: OutputBooks(math.sqrt(square) / abs(common), math.isfinite(square)) for path, square in squares.items()
    }
    norm = math.hypot(*(each.grad_norm for each in outputs.values()))
    finite = math.isfinite(value) and all(each.finite for each in outputs.values())
    # What has a graph trains something, be it no output: a penalty of parameters.
    return TermBooks(value, 1.0, value, 0.0, norm, finite, any(each.rest for each in mine), outputs)
