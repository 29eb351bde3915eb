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
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node

from headwise.attribution.apart.returned.entries import LossEntry
from headwise.attribution.apart.sums.counts import added, held, links, most_added, summands
from headwise.attribution.apart.sums.linear import STACKING, size_of
from headwise.attribution.audit.code.guard import PACKAGES
from headwise.graph import Edge, gradient_edge, topological

_UNIFORM = 1e-4
_PICKING = ("MaxBackward", "MinBackward", "Maximum", "Minimum", "Amax", "Amin")
_LOSSES = os.path.join(os.path.dirname(torch.nn.__file__), "")
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
        is_outdone: Whether the total took the smallest or largest of several losses, and another than this.
        unread: Of losses that were stacked, each at a line of its own, the numbers of those that the total leaves out.
    """

    factor: float | None
    own: float | None
    times: int
    parts: tuple[str, ...] = ()
    injected: tuple[str, ...] = ()
    is_even: bool = True
    is_outdone: bool = False
    unread: frozenset[int] = frozenset()

    @property
    def is_in(self) -> bool:
        """Whether the total depends on the loss."""
        return self.times > 0 or bool(self.factor)


@dataclass(frozen=True)
class Addend:
    """Something that the total adds.

    Attributes:
        times: How often it is added.
        factor: With which factor; None where that differs between its elements.
        line: The line of code that made it, with its function.
        names: The losses that are this summand, or a multiple of it.
        holds: The losses that it adds up inside, element by element.
        within: The losses that add it up.
        norm: The norm of its gradient at the outputs, or at the parameters where it reads no output; once it is known.
    """

    times: int
    factor: float | None
    line: str
    names: tuple[str, ...]
    holds: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    norm: float = 0.0

    @property
    def is_free(self) -> bool:
        """Whether it has to do with no loss by its graph."""
        return not self.names and not self.holds


class Account(NamedTuple):
    """The total, taken apart: how each loss stands in it, and what it adds by where that lies in the graph."""

    standings: dict[str, Standing]
    summands: Mapping[Edge, Addend]


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
    root = None if total is None else gradient_edge(total)
    if total is None or root is None:
        return Account({name: Standing(None, None, 0) for name in live}, {})
    ends = {gradient_edge(tensor) for tensor in outputs}
    chains = {name: _above(links(term.edge), ends) for name, term in live.items()}
    standings = _standings(total, root, live, chains)
    for name, functions in _injections(root, chains).items():
        found = standings[name]
        standings[name] = replace(found, times=found.times + len(functions), injected=tuple(functions))
    for name in () if all(each.is_in for each in standings.values()) else _rivals(root, chains):
        standings[name] = replace(standings[name], is_outdone=not standings[name].is_in)
    return Account(standings, _summands(total, root, chains))


def _rivals(root: Edge, chains: Mapping[str, list[Edge]]) -> set[str]:
    """Losses of which a total takes the smallest or largest."""
    found: set[str] = set()
    for node in topological([root[0]]):
        if _is_picking(node):
            below = _picked_from((node, 0))
            several = {name for name, chain in chains.items() if chain[0] in below}
            found |= several if len(several) > 1 else set()
    return found


def _is_picking(node: Node) -> bool:
    return node.name().startswith(_PICKING) and size_of((node, 0)) == 1


def _picked_from(edge: Edge) -> set[Edge]:
    """What is added up below an edge, also of what a smallest or largest was taken of."""
    below = set(added(edge))
    for node in {node for node, _ in below if _is_picking(node)}:
        below = below.union(*(_picked_from((child, port)) for child, port in node.next_functions if child is not None))
    return below


def _places(total: Tensor, top: Mapping[Edge, int], chains: Mapping[str, list[Edge]]) -> dict[str, Edge | None]:
    """Where each loss (or what it is a multiple of) stands in the graph of the total."""
    found = {name: most_added(chain, top) for name, chain in chains.items()}
    open_ones = {name: _scalars(chains[name]) for name, place in found.items() if place is None}
    grads = derivatives(total, (edge for chain in open_ones.values() for edge in chain))
    for name, chain in open_ones.items():
        found[name] = next((edge for edge in chain if edge in grads and bool(grads[edge].any())), None)
    return found


def _above(chain: list[Edge], ends: Collection[Edge | None]) -> list[Edge]:
    """The links down to an output or a parameter, and at least the loss itself."""
    inside = takewhile(lambda edge: edge not in ends and not hasattr(edge[0], "variable"), chain[1:])
    return [*chain[:1], *inside]


def _scalars(chain: list[Edge]) -> list[Edge]:
    """The first links, as long as they are of the loss's own size."""
    return [edge for edge in chain if size_of(edge) == size_of(chain[0])]


def _standings(
    total: Tensor, root: Edge, live: Mapping[str, LossEntry], chains: Mapping[str, list[Edge]]
) -> dict[str, Standing]:
    """Of each loss the factor, what of it comes through no other loss, and the losses that it adds up itself."""
    top = added(root)
    places = _places(total, top, chains)
    arriving = derivatives(total, places.values())
    parts = {name: held(term.edge, chains) for name, term in live.items()}
    found: dict[str, Standing] = {}
    for name in sorted(live, key=lambda name: -len(parts[name])):
        place = places[name]
        slope = derivatives(live[name].scalar, [place]).get(place)
        standing = _standing(arriving.get(place), slope, top.get(place, 0) if place is not None else 0)
        # The same thing under a second name has nothing of its own.
        own = 0.0 if place is not None and any(places[other] == place for other in found) else standing.factor
        for other in found:
            if name in parts[other] and own is not None and _mean(slope):
                through = derivatives(live[other].scalar, [place]).get(place)
                own -= (found[other].own or 0.0) * _mean(through) / _mean(slope)
        unread = _unread(total, chains[name]) if not standing.is_even else frozenset[int]()
        found[name] = replace(standing, own=own, parts=tuple(parts[name]), unread=unread)
    return {name: found[name] for name in live}


def _unread(total: Tensor, chain: Sequence[Edge]) -> frozenset[int]:
    """The losses in a stack that have no derivative; of samples, which one line makes, some may well have none."""
    stack = next((edge[0] for edge in chain if edge[0].name() in STACKING), None)
    edges = [(child, port) for child, port in stack.next_functions if child is not None] if stack is not None else []
    if not edges or len({line_of(edge) for edge in edges}) < len(edges) or any(size_of(edge) != 1 for edge in edges):
        return frozenset()
    grads = derivatives(total, edges)
    return frozenset(number for number, edge in enumerate(edges) if edge not in grads or not bool(grads[edge].any()))


def _standing(arriving: Tensor | None, slope: Tensor | None, times: int) -> Standing:
    """From the derivatives of the total and of the loss itself where the loss stands."""
    if arriving is None or slope is None or not float(slope.abs().max()):
        return Standing(None, None, times)
    ratio = arriving.double() / slope.double()
    factor = float(ratio.mean())
    spread = float((ratio - factor).abs().max())
    return Standing(factor, factor, times, is_even=spread <= _UNIFORM * max(abs(factor), 1e-300))


def _mean(slope: Tensor | None) -> float:
    return 0.0 if slope is None else float(slope.double().mean())


def _injections(root: Edge, chains: Mapping[str, list[Edge]]) -> dict[str, list[str]]:
    """Losses that are handed to an autograd function, alone or in a sum, beside what it passes on."""
    owners = {edge: name for name, chain in chains.items() for edge in _scalars(chain)}
    found: dict[str, list[str]] = {}
    for node in topological([root[0]]):
        if not issubclass(type(node), BackwardCFunction) or size_of((node, 0)) == 1:
            continue
        edges = [(child, port) for child, port in node.next_functions if child is not None]
        for edge in edges:
            inside = added(edge) if size_of(edge) == 1 else {edge: 1}
            for name in dict.fromkeys(owners[each] for each in inside if each in owners):
                found.setdefault(name, []).append(node.name().removesuffix("Backward"))
    return found


def _summands(total: Tensor, root: Edge, chains: Mapping[str, list[Edge]]) -> dict[Edge, Addend]:
    ends = summands(root, _by_torch)
    grads = derivatives(total, ends)
    inside = {name: added(chain[0]) for name, chain in chains.items()}
    found = {}
    for edge, times in ends.items():
        grad, below = grads.get(edge), _picked_from(edge)
        even = grad is not None and float((grad - grad.mean()).abs().max()) <= _UNIFORM * float(grad.abs().max())
        factor = None if grad is None or not even else float(grad.mean())
        names = tuple(name for name, chain in chains.items() if edge in chain)
        holds = tuple(n for n, chain in chains.items() if n not in names and any(each in below for each in chain))
        within = tuple(name for name, other in inside.items() if edge in other)
        found[edge] = Addend(times, factor, line_of(edge), names, holds, within)
    return found


def line_of(edge: Edge) -> str:
    """The line of the user's code that made a node: "file.py:12 in function", or "" where the graph has none."""
    own = [match for match in _made_in(edge) if not match[1].startswith(PACKAGES)]
    return f"{os.path.basename(own[-1][1])}:{own[-1][2]} in {own[-1][3]}" if own else ""


def _by_torch(edge: Edge) -> bool:
    """Whether a loss of torch's own made a sum: cross entropy adds its smoothing, which is the same for any label."""
    return any(match[1].startswith(_LOSSES) for match in _made_in(edge)[-1:])


def _made_in(edge: Edge) -> list[re.Match[str]]:
    """File, line and function of the frames that made a node, outermost first, where the graph has them."""
    metadata: Any = edge[0].metadata
    return [match for frame in metadata.get("traceback_") or [] if (match := _FRAME.search(frame))]


def derivatives(scalar: Tensor | None, edges: Iterable[Edge | None]) -> dict[Edge | None, Tensor]:
    """The derivative of a scalar at the edges of its graph, which stays usable."""
    known = [edge for edge in dict.fromkeys(edges) if edge is not None]
    if scalar is None or not known:
        return {}
    inputs = [GradientEdge(*edge) for edge in known]
    found = torch.autograd.grad(scalar, inputs, retain_graph=True, allow_unused=True)
    return {edge: grad for edge, grad in zip(known, found, strict=True) if grad is not None}
