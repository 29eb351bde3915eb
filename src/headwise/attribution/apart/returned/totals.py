"""Which of the scalars that a criterion returned is the total of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headwise.attribution.apart.sums.counts import added_below, links
from headwise.attribution.apart.words import is_metric, says_total
from headwise.graph import Edge

_ROUNDING = 1e-4
_VALUES = 1e-5


@dataclass(frozen=True)
class LiveLoss:
    """One entry that is a loss with a graph, or a tensor of them."""

    name: str
    value: Tensor
    number: float


def find_total(
    live: Sequence[LiveLoss], dead: Mapping[str, float], order: Sequence[str], inputs: Sequence[Tensor]
) -> str | None:
    """Find the entry that is computed from others.

    By its name and graph, by its place and graph, or, where no graph is shared, because its gradient is a sum of the
    others' gradients.

    Args:
        live: The entries with a graph.
        dead: The values of the others.
        order: All names as they were returned.
        inputs: Where gradients are compared.

    Returns:
        The name, or None.
    """
    scalars = [part for part in live if part.value.numel() == 1]
    if len(order) < 2 or not scalars:
        return None
    below = {id(part.value): links(part.value) for part in live}
    held = {part.name: _held(part, live, below) for part in scalars}
    said = [part for part in scalars if says_total(part.name) and _is_said(part, held[part.name], live, dead)]
    if said:
        return _outermost(said, held)
    for part in scalars:
        if _is_placed(part.name, held, order):
            return part.name
    return _by_gradient(scalars, order, inputs)


def _outermost(said: Sequence[LiveLoss], held: Mapping[str, frozenset[str]]) -> str | None:
    """Of several that are called so the one that is in no other, or nearest to the top; none of several groups' own."""
    outer = [part for part in said if not any(part.name in held[other.name] for other in said)] or list(said)
    depth = min(part.name.count(".") for part in outer)
    top = [part for part in outer if part.name.count(".") == depth]
    different = any(part.value is not top[0].value for part in top)
    return None if different and depth else top[0].name


def _held(part: LiveLoss, live: Sequence[LiveLoss], below: Mapping[int, list[Edge]]) -> frozenset[str]:
    """The other entries that an entry adds up."""
    own = below[id(part.value)]
    added = added_below(own[0])
    return frozenset(
        other.name
        for other in live
        if other is not part and other.value is not part.value and _is_below(below[id(other.value)], own, added)
    )


def _is_below(edges: list[Edge], own: list[Edge], added: Mapping[Edge, int]) -> bool:
    return any(edge in added and edge not in own for edge in edges)


def _is_said(part: LiveLoss, held: frozenset[str], live: Sequence[LiveLoss], dead: Mapping[str, float]) -> bool:
    others = [other for other in live if other is not part]
    same = any(other.value is part.value for other in others)
    values = sum(other.number for other in others) + sum(dead.values())
    adds_up = abs(values - part.number) <= _VALUES * max(abs(values), abs(part.number), 1e-30)
    measured = all(is_metric(other.name) for other in others)
    return bool(held) or same or adds_up or measured


def _is_placed(name: str, held: Mapping[str, frozenset[str]], order: Sequence[str]) -> bool:
    """First or last, with at least two parts in it, and no other sum beside it that is not in it."""
    parts = held[name]
    if name not in (order[0], order[-1]) and len(parts) < len(held) - 1:
        return False
    rivals = [other for other, theirs in held.items() if len(theirs) > 1 and other != name and other not in parts]
    tuple_of_two = len(order) == 2 and name.isdecimal()
    return len(parts) >= (1 if tuple_of_two else 2) and not any(held[rival] - parts for rival in rivals)


def _by_gradient(scalars: Sequence[LiveLoss], order: Sequence[str], inputs: Sequence[Tensor]) -> str | None:
    """The first or last entry, if its gradient and value are sums of others' (computed a second time)."""
    if len(scalars) < 3 or not inputs:
        return None
    rows = [torch.autograd.grad(p.value.sum(), list(inputs), retain_graph=True, allow_unused=True) for p in scalars]
    full = [[torch.zeros_like(x) if g is None else g for g, x in zip(row, inputs, strict=True)] for row in rows]
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in full]).double().nan_to_num()
    for index, part in enumerate(scalars):
        said = says_total(part.name) or part.name in (order[0], order[-1])
        others = [i for i in range(len(scalars)) if i != index]
        if not said or not float(flat[index].norm()):
            continue
        factors = torch.linalg.lstsq(flat[others].T, flat[index], driver="gelsd").solution
        left = float((flat[index] - factors @ flat[others]).norm() / flat[index].norm())
        value = sum(float(f) * scalars[i].number for f, i in zip(factors, others, strict=True))
        agrees = abs(value - part.number) <= _ROUNDING * max(abs(part.number), 1e-12)
        added = int((factors.abs() > _ROUNDING).sum())
        if left < _ROUNDING and agrees and added > 1 and bool((factors > -_ROUNDING).all()):
            return part.name
    return None
