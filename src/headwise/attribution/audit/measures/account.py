"""How the total is made of the losses: with which factor, how often, and of what else.

Factors are derivatives, as in `take_apart`; they cannot tell `a + a` from `2 * a`, which are a fault and a weight. So
paths are counted beside them (`apart.sums.counts`), through what adds all that it gets: `take_apart` follows all that
is linear, where paths are no measure (two columns of one table are two paths to it, and no sum).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge

from headwise.attribution.apart.returned.entries import LossEntry
from headwise.attribution.apart.sums.counts import added, held, links, summands
from headwise.attribution.apart.sums.linear import size_of
from headwise.attribution.audit.code.guard import PACKAGES
from headwise.graph import Edge, gradient_edge, topological

_UNIFORM = 1e-4
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


@dataclass(frozen=True)
class Standing:
    """How one loss stands in the total.

    Attributes:
        factor: The derivative of the total to the loss, or its mean where it differs between samples. None: none.
        own: The part of the factor that does not come through another loss.
        times: By how many paths the total adds the loss.
        parts: The other losses that this one adds up.
        injected: The autograd functions that send a gradient into the loss without adding it.
        is_even: Whether all samples have one factor.
    """

    factor: float | None
    own: float | None
    times: int
    parts: tuple[str, ...] = ()
    injected: tuple[str, ...] = ()
    is_even: bool = True

    @property
    def is_in(self) -> bool:
        """Whether the total depends on the loss."""
        return self.times > 0 or bool(self.factor)


@dataclass(frozen=True)
class Addend:
    """Something that the total adds.

    Attributes:
        edge: Where it stands in the graph.
        times: How often it is added.
        factor: With which factor; None where that differs between its elements.
        line: The line of code that made it, with its function.
        names: The losses that are this summand, or a multiple of it.
        holds: The losses that it adds up inside, element by element.
        within: The losses that add it up.
    """

    edge: Edge
    times: int
    factor: float | None
    line: str
    names: tuple[str, ...]
    holds: tuple[str, ...] = ()
    within: tuple[str, ...] = ()

    @property
    def is_free(self) -> bool:
        """Whether it has to do with no loss by its graph."""
        return not self.names and not self.holds


@dataclass(frozen=True)
class Account:
    """The total, taken apart."""

    standings: Mapping[str, Standing]
    summands: tuple[Addend, ...]


def account_of(total: Tensor | None, terms: Sequence[LossEntry], outputs: Iterable[Tensor] = ()) -> Account:
    """Take a total apart.

    Args:
        total: What backward is called on.
        terms: The losses.
        outputs: What the network returned: two losses that are linear in an output are not the same thing.

    Returns:
        The standing of every loss with a graph, and the summands.
    """
    live = {term.name: term for term in terms if term.edge is not None}
    if total is None:
        return Account({name: Standing(None, None, 0) for name in live}, ())
    top = added(gradient_edge(total))
    ends = {gradient_edge(tensor) for tensor in outputs}
    chains = {name: _above(links(term.edge), ends) for name, term in live.items()}
    places = _places(total, top, chains)
    plain = {name: _standing(total, top, live[name], places[name]) for name in live}
    injected = _injections(total, chains)
    standings = _own_parts(plain, live, places, chains)
    for name, functions in injected.items():
        found = standings[name]
        standings[name] = replace(found, times=found.times + len(functions), injected=tuple(functions))
    return Account(standings, _summands(total, chains))


def _places(total: Tensor, top: Mapping[Edge, int], chains: Mapping[str, list[Edge]]) -> dict[str, Edge | None]:
    """Where each loss (or what it is a multiple of) stands in the graph of the total."""
    found: dict[str, Edge | None] = {}
    for name, chain in chains.items():
        passed = [edge for edge in chain if edge in top]
        # The link that most paths lead to: what is added per sample inside of a sum, and averaged beside it, is one.
        found[name] = max(passed, key=lambda edge: top[edge], default=None)
    open_ones = {name: _scalars(chains[name]) for name, place in found.items() if place is None}
    edges = [edge for chain in open_ones.values() for edge in chain]
    grads = dict(zip(edges, derivatives(total, edges), strict=True))
    for name, chain in open_ones.items():
        found[name] = next((edge for edge in chain if (g := grads[edge]) is not None and bool(g.any())), None)
    return found


def _above(chain: list[Edge], ends: Collection[Edge | None]) -> list[Edge]:
    """The links down to an output or a parameter, and at least the loss itself."""
    inside = takewhile(lambda edge: edge not in ends and not hasattr(edge[0], "variable"), chain[1:])
    return [*chain[:1], *inside]


def _scalars(chain: list[Edge]) -> list[Edge]:
    """The first links, as long as they are of the loss's own size."""
    return [edge for edge in chain if size_of(edge) == size_of(chain[0])]


def _standing(total: Tensor, top: Mapping[Edge, int], term: LossEntry, place: Edge | None) -> Standing:
    if place is None or term.scalar is None:
        return Standing(None, None, 0)
    (grad,), (scale,) = derivatives(total, [place]), derivatives(term.scalar, [place])
    if grad is None or scale is None or not float(scale.abs().max()):
        return Standing(None, None, top.get(place, 0))
    ratio = grad.double() / scale.double()
    factor = float(ratio.mean())
    spread = float((ratio - factor).abs().max())
    return Standing(factor, factor, top.get(place, 0), is_even=spread <= _UNIFORM * max(abs(factor), 1e-300))


def _own_parts(
    plain: Mapping[str, Standing],
    live: Mapping[str, LossEntry],
    places: Mapping[str, Edge | None],
    chains: Mapping[str, list[Edge]],
) -> dict[str, Standing]:
    """Of each loss the factor that does not come through another loss, and the losses that it adds up itself."""
    parts = {name: held(term.edge, chains) for name, term in live.items()}
    found: dict[str, Standing] = {}
    taken: set[Edge] = set()
    for name in sorted(live, key=lambda name: -len(parts[name])):
        own, place = plain[name].factor, places[name]
        own = 0.0 if place in taken else own  # the same thing under a second name
        taken |= {place} if place is not None else set()
        scale = _derivative(live[name], place)
        for other, members in parts.items():
            if name in members and other in found and own is not None and scale:
                through = _derivative(live[other], place)
                own -= (found[other].own or 0.0) * (through or 0.0) / scale
        found[name] = replace(plain[name], own=own, parts=tuple(parts[name]))
    return {name: found[name] for name in live}


def _derivative(term: LossEntry, place: Edge | None) -> float | None:
    if place is None or term.scalar is None:
        return None
    (grad,) = derivatives(term.scalar, [place])
    return None if grad is None else float(grad.double().mean())


def _injections(total: Tensor, chains: Mapping[str, list[Edge]]) -> dict[str, list[str]]:
    """Losses that are handed to an autograd function beside what it passes on."""
    root = gradient_edge(total)
    owners = {edge: name for name, chain in chains.items() for edge in _scalars(chain)}
    found: dict[str, list[str]] = {}
    for node in topological([root[0]]) if root is not None else ():
        if not issubclass(type(node), BackwardCFunction) or size_of((node, 0)) == 1:
            continue
        for child, port in node.next_functions:
            if child is not None and (child, port) in owners:
                found.setdefault(owners[child, port], []).append(node.name().removesuffix("Backward"))
    return found


def _summands(total: Tensor, chains: Mapping[str, list[Edge]]) -> tuple[Addend, ...]:
    ends = summands(gradient_edge(total))
    edges = list(ends)
    inside = {name: added(chain[0]) for name, chain in chains.items()}
    found = []
    for edge, grad in zip(edges, derivatives(total, edges), strict=True):
        names = tuple(name for name, chain in chains.items() if edge in chain)
        even = grad is not None and float((grad - grad.mean()).abs().max()) <= _UNIFORM * float(grad.abs().max())
        factor = None if grad is None or not even else float(grad.mean())
        below = added(edge)
        holds = tuple(n for n, chain in chains.items() if n not in names and any(each in below for each in chain))
        within = tuple(name for name, below in inside.items() if edge in below)
        found.append(Addend(edge, ends[edge], factor, line_of(edge), names, holds, within))
    return tuple(found)


def line_of(edge: Edge) -> str:
    """The line of the user's code that made a node: "file.py:12 in function", or "" where the graph has none."""
    metadata: Any = edge[0].metadata
    frames = metadata.get("traceback_") or []
    own = [match for frame in frames if (match := _FRAME.search(frame)) and not match[1].startswith(PACKAGES)]
    return f"{os.path.basename(own[-1][1])}:{own[-1][2]} in {own[-1][3]}" if own else ""


def derivatives(scalar: Tensor, edges: Sequence[Edge]) -> list[Tensor | None]:
    """The derivative of a scalar at edges of its graph, which stays usable."""
    if not edges or not scalar.requires_grad:
        return [None] * len(edges)
    inputs = [GradientEdge(*edge) for edge in edges]
    return list(torch.autograd.grad(scalar, inputs, retain_graph=True, allow_unused=True))
