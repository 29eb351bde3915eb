"""Which of the scalars that a criterion returned is the total of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headwise.attribution.apart.returned.entries import LossEntry
from headwise.attribution.apart.sums.counts import held, links
from headwise.attribution.apart.sums.solve import flattened, mixture
from headwise.attribution.apart.words import is_metric, says_total

_ROUNDING = 1e-4
_VALUES = 1e-5


def find_total(entries: Sequence[LossEntry], inputs: Sequence[Tensor]) -> LossEntry | None:
    """Find the entry that is computed from others.

    By its name and graph, by its place and graph, or, where no graph is shared, because its gradient is a sum of the
    others' gradients.

    Args:
        entries: What was returned.
        inputs: Where gradients are compared.

    Returns:
        The total, or None.
    """
    entries = [entry for entry in entries if entry.is_scalar or entry.edge is not None]
    live = [entry for entry in entries if entry.edge is not None]
    scalars = [entry for entry in live if entry.is_scalar]
    if len(entries) < 2 or not scalars:
        return None
    order = [entry.name for entry in entries]
    chains = {entry.name: links(entry.edge) for entry in live}
    parts = {entry.name: frozenset(held(entry.edge, chains)) for entry in scalars}
    # A total of one part, or one to which nothing was added yet, is a multiple of it.
    made_of = {name: parts[name].union(n for n, c in chains.items() if c[0] in chains[name][1:]) for name in parts}
    said = [entry for entry in scalars if says_total(entry.name) and _is_said(entry, made_of[entry.name], entries)]
    if said:
        return _outermost(said, parts)
    placed = next((entry for entry in scalars if _is_placed(entry.name, parts, order)), None)
    return placed or _by_gradient(scalars, order, inputs)


def _outermost(said: Sequence[LossEntry], parts: Mapping[str, frozenset[str]]) -> LossEntry | None:
    """Of several that are called so the one that is in no other, or nearest to the top; none of several groups' own."""
    outer = [each for each in said if not any(each.name in parts[other.name] for other in said)] or list(said)
    depth = min(each.name.count(".") for each in outer)
    top = [each for each in outer if each.name.count(".") == depth]
    different = any(each.value is not top[0].value for each in top)
    return None if different and depth else top[0]


def _is_said(entry: LossEntry, parts: frozenset[str], entries: Sequence[LossEntry]) -> bool:
    others = [other for other in entries if other is not entry]
    same = any(other.value is entry.value for other in others)
    values, own = sum(other.number for other in others), entry.number
    adds_up = abs(values - own) <= _VALUES * max(abs(values), abs(own), 1e-30)
    measured = all(is_metric(other.name) for other in others if other.edge is not None)
    return bool(parts) or same or adds_up or measured


def _is_placed(name: str, parts: Mapping[str, frozenset[str]], order: Sequence[str]) -> bool:
    """First or last, with at least two parts in it, and no other sum beside it that is not in it."""
    own = parts[name]
    if name not in (order[0], order[-1]) and len(own) < len(parts) - 1:
        return False
    rivals = [other for other, theirs in parts.items() if len(theirs) > 1 and other != name and other not in own]
    tuple_of_two = len(order) == 2 and name.isdecimal()
    return len(own) >= (1 if tuple_of_two else 2) and not any(parts[rival] - own for rival in rivals)


def _by_gradient(scalars: Sequence[LossEntry], order: Sequence[str], inputs: Sequence[Tensor]) -> LossEntry | None:
    """The first or last entry, if its gradient and value are sums of others' (computed a second time)."""
    if len(scalars) < 3 or not inputs:
        return None
    roots = [entry.scalar for entry in scalars if entry.scalar is not None]
    rows = [torch.autograd.grad(root, list(inputs), retain_graph=True, allow_unused=True) for root in roots]
    flat = torch.stack([flattened(row, inputs) for row in rows])
    for index, entry in enumerate(scalars):
        if not (says_total(entry.name) or entry.name in (order[0], order[-1])):
            continue
        others = [number for number in range(len(scalars)) if number != index]
        found = mixture(flat[others], flat[index])
        value = sum(factor * scalars[others[number]].number for number, factor in found.items())
        if len(found) > 1 and abs(value - entry.number) <= _ROUNDING * max(abs(entry.number), 1e-12):
            return entry
    return None
