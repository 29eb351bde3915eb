"""A total beside the losses that have names: which of them it adds, which are sums of others, and what is left.

Every loss that has a name is followed down to its points (see `walk_sum`), and so is the total. Losses, totals and
copies that were divided, scaled or stacked again on their way are so compared by what they add up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headwise.attribution.apart.sums.walk import Sum, walk_sum
from headwise.graph import Edge, gradient_edge

LAST = 100


@dataclass(frozen=True)
class Candidate:
    """A loss that has a name.

    Args:
        name: The name.
        tensor: Its value: a scalar, or the losses of single samples, the mean of which is the loss.
        rank: Which of two names of one loss is kept: that which is nearer to the total, then that of the lower rank; a
            name of rank `LAST` or more only if there is no other.
        at: Where its gradient enters the graph, if the tensor was kept without.
    """

    name: str
    tensor: Tensor
    rank: int = 0
    at: Edge | None = None

    @property
    def edge(self) -> Edge:
        """Where its gradient enters the graph."""
        edge = self.at or gradient_edge(self.tensor)
        assert edge is not None
        return edge

    @property
    def seed(self) -> Tensor:
        """The derivative of its mean with respect to it."""
        return torch.full_like(self.tensor.detach(), 1 / max(1, self.tensor.numel()))


@dataclass(frozen=True)
class Direct:
    """A loss that the total adds, and the derivative of the total with respect to it."""

    loss: Candidate
    derivative: Tensor


@dataclass(frozen=True)
class Copies:
    """Losses that the total does not add themselves, but computes from the same: after scaling, or again with others.

    Args:
        losses: The losses.
        products: Inner products of their derivatives with respect to what they share, (losses, losses).
        arriving: The same with the derivative of the total.
        square: The square of that.
    """

    losses: tuple[Candidate, ...]
    products: Tensor
    arriving: Tensor
    square: Tensor
    points: frozenset[Edge]


@dataclass(frozen=True)
class Anatomy:
    """What a total consists of.

    Args:
        direct: The losses that it adds.
        copies: Losses that are the same as parts of it.
        rest: What it adds besides, each edge with the derivative of the total with respect to it; what copies explain
            is in it too.
        groups: Losses that are sums of others, with their names.
        whole: Names of the total itself.
        absent: Losses that it does not add.
        totals: Names of the total itself, and of sums of others, that lie on its way, from the losses upwards: the
            derivative of the total with respect to them.
    """

    direct: tuple[Direct, ...]
    copies: tuple[Copies, ...]
    rest: Mapping[Edge, Tensor]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    absent: tuple[Candidate, ...] = ()
    totals: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def is_reached(self) -> bool:
        """Whether the total adds any of the losses."""
        return bool(self.direct or self.copies or self.groups or self.whole)


def dissect(
    roots: Sequence[tuple[Edge, Tensor]], candidates: Sequence[Candidate], *, outputs: Collection[Edge] = ()
) -> Anatomy:
    """Takes a total apart.

    Args:
        roots: The edges of the total, each with its derivative.
        candidates: The losses that have names; those without a graph are left out by the caller.
        outputs: Edges below which nothing is a loss.

    Returns:
        The parts.
    """
    found = _compared(roots, candidates, outputs, wide=False)
    if not found.absent:
        return found
    # Only where that explains a loss: without need, a mean would be followed into what it is the mean of.
    again = _compared(roots, candidates, outputs, wide=True)
    return again if len(again.absent) < len(found.absent) else found


def _compared(
    roots: Sequence[tuple[Edge, Tensor]], candidates: Sequence[Candidate], outputs: Collection[Edge], wide: bool
) -> Anatomy:
    known = {each.edge for each in candidates}
    found = {each.name: _sum_of(each, outputs, known - {each.edge}, wide) for each in candidates}
    sums = {name: each for name, each in found.items() if each is not None}
    candidates = [each for each in candidates if each.name in sums]
    total = walk_sum(roots, ends=outputs, known=known, wide=wide)
    sets = {name: frozenset(each.points) for name, each in sums.items()}
    whole = {
        each.edge
        for each in candidates
        if sets[each.name] == frozenset(total.points)
        and walk_sum(roots, ends={*outputs, each.edge}, known=known, wide=wide).points.keys() <= {each.edge}
    }

    def reached(ends: Collection[Edge]) -> Collection[Edge]:
        return walk_sum(roots, ends={*outputs, *ends}, known=known, wide=wide).points

    beside = _beside([each for each in candidates if each.edge in total.passed], sets, reached)
    choice = _choose(total, candidates, sets, whole, beside)
    place = {edge: number for number, edge in enumerate(total.passed)}
    kept = [each for each in candidates if each.name in choice.kept]
    direct = [each for each in kept if each.edge in total.passed and _alone(each, kept, sets)]
    final = walk_sum(roots, ends={*outputs, *(each.edge for each in direct)}, known=known, wide=wide)
    added = {each.edge: final.points.get(each.edge) for each in direct}
    rest = {edge: derivative for edge, derivative in final.points.items() if edge not in added}
    return Anatomy(
        tuple(Direct(each, derivative) for each in direct if (derivative := added[each.edge]) is not None),
        tuple(_copies(group, sums, rest) for group in _connected([e for e in kept if e not in direct], sets)),
        rest,
        choice.groups,
        choice.whole,
        tuple(each for each in candidates if each.name in choice.absent),
        {
            each.name: total.passed[each.edge]
            for each in sorted(candidates, key=lambda each: place.get(each.edge, 0), reverse=True)
            if each.edge in place and (each.name in choice.groups or each.name in choice.whole)
        },
    )


def _sum_of(loss: Candidate, outputs: Collection[Edge], known: Collection[Edge], wide: bool) -> Sum | None:
    """What a loss adds up; None if a backward pass has freed its graph."""
    try:
        return walk_sum([(loss.edge, loss.seed)], ends=outputs, known=known, wide=wide)
    except RuntimeError:
        return None


@dataclass(frozen=True)
class _Choice:
    """Which names stand for a summand."""

    kept: frozenset[str]
    groups: Mapping[str, tuple[str, ...]]
    whole: tuple[str, ...]
    absent: frozenset[str]


def _choose(
    total: Sum,
    candidates: Sequence[Candidate],
    sets: Mapping[str, frozenset[Edge]],
    whole: Collection[Edge],
    beside: Collection[str],
) -> _Choice:
    """Sums of others and second names of one thing give way to their parts and to the first."""
    points = frozenset(total.points)
    inside = [each for each in candidates if sets[each.name] and sets[each.name] <= points]
    absent = {each.name for each in candidates if not sets[each.name] & points}
    place = {edge: number for number, edge in enumerate(total.passed)}
    # The name nearest to the total: constants and divisions below it belong to the loss.
    inside.sort(key=lambda each: (each.rank >= LAST, place.get(each.edge, len(place)), each.rank))
    first: dict[frozenset[Edge], Candidate] = {}
    for each in inside:
        first.setdefault(sets[each.name], each)
    # A copy of the total is taken for the total too: what it adds cannot differ in more than factors.
    total_again = [each for each in inside if sets[each.name] == points and len(points) > 1]
    total_again = [each for each in total_again if each.edge in whole or each.edge not in total.passed]
    parts = [each for each in first.values() if each not in total_again]
    groups = {
        each.name: tuple(other.name for other in parts if sets[other.name] < sets[each.name])
        for each in candidates
        if _is_group(sets[each.name], [sets[other.name] for other in parts])
    }
    kept = (frozenset(each.name for each in parts) | frozenset(beside)) - groups.keys()
    return _Choice(kept, groups, tuple(each.name for each in total_again), frozenset(absent))


def _beside(
    passed: Sequence[Candidate],
    sets: Mapping[str, frozenset[Edge]],
    reached: Callable[[Collection[Edge]], Collection[Edge]],
) -> frozenset[str]:
    """Losses of the same points that the total adds beside each other: a loss, and twice that loss."""
    same: dict[frozenset[Edge], dict[Edge, Candidate]] = {}
    for each in passed:
        if each.rank < LAST:
            same.setdefault(sets[each.name], {}).setdefault(each.edge, each)
    found: set[str] = set()
    for group in same.values():
        names = {group[edge].name for edge in (reached(group) if len(group) > 1 else ()) if edge in group}
        found |= names if len(names) > 1 else set()
    return frozenset(found)


def _is_group(mine: frozenset[Edge], others: Sequence[frozenset[Edge]]) -> bool:
    """Whether the points of a loss are those of smaller losses together."""
    smaller = [each for each in others if each < mine]
    return bool(smaller) and frozenset().union(*smaller) == mine


def _alone(mine: Candidate, kept: Sequence[Candidate], sets: Mapping[str, frozenset[Edge]]) -> bool:
    """Whether no other loss shares a part of the points; one of the very same has a path of its own."""
    return all(not sets[other.name] & sets[mine.name] or sets[other.name] == sets[mine.name] for other in kept)


def _connected(losses: Sequence[Candidate], sets: Mapping[str, frozenset[Edge]]) -> list[list[Candidate]]:
    """The losses in groups that share no point with each other."""
    groups: list[tuple[list[Candidate], frozenset[Edge]]] = []
    for loss in losses:
        mine, points = [loss], sets[loss.name]
        for other in [group for group in groups if group[1] & points]:
            groups.remove(other)
            mine, points = [*other[0], *mine], points | other[1]
        groups.append((mine, points))
    return [losses for losses, _ in groups]


def _copies(losses: Sequence[Candidate], sums: Mapping[str, Sum], rest: Mapping[Edge, Tensor]) -> Copies:
    points = frozenset().union(*(sums[each.name].points for each in losses))
    rows = [sums[each.name].points for each in losses]
    device = losses[0].tensor.device
    products = torch.stack([torch.stack([_product(left, right, device) for right in rows]) for left in rows])
    total = {edge: derivative for edge, derivative in rest.items() if edge in points}
    arriving = torch.stack([_product(row, total, device) for row in rows])
    return Copies(tuple(losses), products, arriving, _product(total, total, device), points)


def _product(left: Mapping[Edge, Tensor], right: Mapping[Edge, Tensor], device: torch.device) -> Tensor:
    # MPS has no float64.
    wide = torch.float32 if device.type == "mps" else torch.float64
    found = torch.zeros((), dtype=wide, device=device)
    for edge in left.keys() & right.keys():
        found = found + (left[edge].to(device, wide) * right[edge].to(device, wide)).sum()
    return found
