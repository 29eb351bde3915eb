"""Calls of code that is not ours, and what backward passes brought them: numbers on the device, read later."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.utils.hooks import RemovableHandle

from headwise.attribution.apart.sums.dissect import Candidate
from headwise.criterion.terms.paths import Slice
from headwise.graph import Edge

REST = "\0rest"
"""The row of what belongs to no loss that was returned."""

Key = tuple[Hashable, ...]
"""What a number means: its kind, then of what."""

OutputEdges = Mapping[str, Edge]
UsedBelow = Mapping[Edge, Sequence[tuple[Node, int]]]
Slices = Mapping[str, Sequence[Slice | None]]


@dataclass
class ForeignCall:
    """One call of the code.

    Args:
        step: Its number.
        losses: The losses that it returned, those with a graph.
        outputs: Given where losses are, tells where the outputs that they read enter the graph.
        fixed: Where outputs are known to be, whatever reads them.
        slices: Per loss the outputs that are booked for it, and which channels; without an entry all.
        unread: Is told of losses that read none of the outputs.
        names_rest: Whether the losses are variables rather than what the code returned: those that are not in the
            number are no terms, and summands without a name get one of what computed them, each a row of its own.
        scale: What the number was multiplied by at last (a loss scale), where no total that was returned tells.
        passes: What backward passes brought.
        thread: In which it was made.
    """

    step: int
    losses: tuple[Candidate, ...]
    outputs: Callable[[Sequence[Edge]], OutputEdges]
    fixed: frozenset[Edge]
    slices: Mapping[str, Slices]
    unread: Callable[[Sequence[str]], None] | None = None
    names_rest: bool = False
    scale: Tensor | None = None
    passes: list[ForeignPass] = field(default_factory=list)
    thread: int = field(default_factory=get_ident)


@dataclass(frozen=True)
class Unit:
    """Something whose gradient is booked.

    Args:
        name: Of the loss, or `REST`.
        edges: Where it is, each with the derivative that is sent from there.
        factor: What its gradient is multiplied by; None if that is in the derivatives already, or not known yet.
        trains: Whether it is part of the number as it stands; else it is booked to be compared.
    """

    name: str
    edges: tuple[tuple[Edge, Tensor], ...]
    factor: Tensor | None = None
    trains: bool = True


@dataclass(frozen=True)
class ForeignPass:
    """What one backward pass brought to one call.

    Args:
        names: What was booked, in order; see `Unit`.
        scaled: Those of it whose gradient is to be multiplied by their factor.
        copies: Losses that are parts of the rest, in groups with inner products.
        paths: The outputs.
        keys: What the numbers mean.
        numbers: The numbers in one tensor, for a later read.
    """

    names: tuple[str, ...]
    scaled: frozenset[str]
    copies: tuple[tuple[str, ...], ...]
    paths: tuple[str, ...]
    keys: tuple[Key, ...]
    numbers: Tensor


def wide(tensor: Tensor) -> Tensor:
    """A tensor in float64; float32 on MPS, which has no float64. A complex number becomes two, its parts."""
    plain = torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()
    return plain.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def mean_of(tensor: Tensor) -> Tensor:
    """The value of a loss: its mean, of complex numbers that of their real parts."""
    return wide(tensor.detach().real if tensor.is_complex() else tensor).mean()


def number_of(begun: Iterable[tuple[Edge, Tensor, Tensor]]) -> Tensor:
    """The number on which a pass is called, as one.

    Args:
        begun: Where it begins: the edge, what it is called with, and on what.

    Returns:
        The sum of the products.
    """
    return torch.stack([(wide(seed) * wide(root)).sum() for _, seed, root in begun]).sum()


_LOOKING: list[int] = []
"""Threads that look, as often as they do: what another ledger hears in one of them meanwhile did not arrive."""


class GraphEnds:
    """The outputs of a network, as the places where its graph ends and that of the losses begins.

    Args:
        places: Where they are, by path.

    Attributes:
        nested: Whether a loss was found whose gradient would go on from one output to another, through the network.
    """

    def __init__(self, places: OutputEdges) -> None:
        self.places, self.nested = places, False
        self._thread = get_ident()
        ports: dict[Node, set[int]] = {}
        for node, port in places.values():
            ports.setdefault(node, set()).add(port)
        self._handles = [node.register_prehook(partial(self._end, frozenset(own))) for node, own in ports.items()]

    def _end(self, ports: frozenset[int], grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        self.nested = True
        return tuple(None if port in ports else grad for port, grad in enumerate(grads))

    def __enter__(self) -> GraphEnds:
        _LOOKING.append(self._thread)
        return self

    def __exit__(self, *_: object) -> None:
        _LOOKING.remove(self._thread)
        for handle in self._handles:
            handle.remove()


def gradients(unit: Unit, places: OutputEdges) -> dict[str, Tensor]:
    """What a unit sends to the outputs.

    Args:
        unit: The unit.
        places: Where the outputs are; see `GraphEnds`, which ends the pass there.

    Returns:
        Its gradient by the paths of the outputs that it reads.
    """
    paths = list(places)
    if not paths or not unit.edges:
        return {}
    roots = [GradientEdge(*edge) for edge, _ in unit.edges]
    found = torch.autograd.grad(
        roots,
        [GradientEdge(*places[path]) for path in paths],
        [derivative for _, derivative in unit.edges],
        retain_graph=True,
        allow_unused=True,
    )
    return {path: grad.detach() for path, grad in zip(paths, found, strict=True) if grad is not None}


def mixed(units: Sequence[Unit], places: OutputEdges, below: UsedBelow) -> OutputEdges:
    """The outputs of which a loss and the network read one result: the hidden layer behind ``relu(layer(x))``.

    What the network sends back to them cannot be heard apart from what the loss sends.

    Args:
        units: What is booked.
        places: Where the outputs are.
        below: Which of them the network uses for others; from `graph.used_below`.

    Returns:
        Those of them, by path.
    """
    stack = [edge for unit in units for edge, _ in unit.edges]
    ends, own = set(places.values()), set[Node]()
    while stack:
        edge = stack.pop()
        if edge not in ends and edge[0] not in own:
            own.add(edge[0])
            stack += [(child, port) for child, port in edge[0].next_functions if child is not None]
    return {path: place for path, place in places.items() if any(node in own for node, _ in below.get(place, ()))}


def within(grads: Mapping[str, Tensor], slices: Slices | None) -> dict[str, Tensor]:
    """The part of what a loss sends that is booked for it.

    Args:
        grads: Its gradient, by path.
        slices: Which outputs are booked, and which channels; None: all.

    Returns:
        The gradient at those outputs, zero outside of the channels.
    """
    return (
        dict(grads) if slices is None else {path: _cut(grads[path], slices[path]) for path in grads if path in slices}
    )


def _cut(grad: Tensor, slices: Sequence[Slice | None]) -> Tensor:
    if None in slices:
        return grad
    kept = torch.zeros_like(grad)
    for each in slices:
        assert each is not None
        begin, end = each.bounds(grad)
        kept.narrow(each.dim, begin, end - begin).copy_(grad.narrow(each.dim, begin, end - begin))
    return kept


class Arrivals:
    """Listens at the outputs while a backward pass runs: what arrives there, less what was booked.

    Args:
        places: Where the outputs are.
        booked: What was booked there, all units together.
        below: Which of them the network uses for others: what it sends back is no stranger; from `graph.used_below`.
        whole: Paths at which `booked` holds that too; see `mixed`.
        into: Takes the squared norms of the difference and of what arrived, per path.
    """

    def __init__(
        self,
        places: OutputEdges,
        booked: Mapping[str, Tensor],
        below: UsedBelow,
        whole: Collection[str],
        into: dict[Key, Tensor],
    ) -> None:
        self._booked, self._whole, self._into = dict(booked), whole, into
        self._thread = get_ident()  # which begins the pass; that the engine runs in is another on a GPU
        self._again: dict[str, Tensor] = {}
        by_node: dict[Node, list[tuple[str, int]]] = {}
        for path, (node, port) in places.items():
            by_node.setdefault(node, []).append((path, port))
        self._handles: list[RemovableHandle] = [
            node.register_prehook(_Listener(self, paths)) for node, paths in by_node.items()
        ]
        for path in places.keys() - set(whole):
            for node, number in below.get(places[path], ()):
                self._handles.append(node.register_hook(partial(self._sent_again, path, number)))

    def _sent_again(self, path: str, number: int, grads: tuple[Tensor | None, ...], _: Any) -> None:
        grad = grads[number]
        if grad is not None and not self.is_looking:
            self._again[path] = self._again[path] + grad.detach() if path in self._again else grad.detach()

    @property
    def is_looking(self) -> bool:
        """Whether the thread that listens has a pass of its own under way, to look."""
        return self._thread in _LOOKING

    def heard(self, path: str, grad: Tensor | None) -> None:
        """Takes down what arrived at one output.

        Args:
            path: The output.
            grad: What arrived.
        """
        booked, again = self._booked.pop(path, None), self._again.pop(path, None)
        if again is not None:
            # Added in float64, or complex128.
            booked = (
                again if booked is None else booked.to(torch.promote_types(booked.dtype, wide(again).dtype)) + again
            )
        difference = booked
        if grad is not None:
            difference = grad.detach() if booked is None else grad.detach() - booked.to(grad.dtype)
            if again is not None or path in self._whole:
                # The engine has added the two up in the dtype of the output; or layers between were computed twice.
                noise = (64 if path in self._whole else 4) * torch.finfo(grad.dtype).eps * grad.detach().norm()
                difference = torch.where(difference.norm() <= noise, torch.zeros_like(difference), difference)
        if difference is not None:
            self._into["unbooked", path] = wide(difference).square().sum()

    def close(self) -> None:
        """Ends the listening; what was booked and never arrived is a difference too."""
        for handle in self._handles:
            handle.remove()
        for path in list(self._booked):
            self.heard(path, None)


class _Listener:
    """A hook on the node whose outputs are outputs of the network."""

    def __init__(self, arrivals: Arrivals, paths: Sequence[tuple[str, int]]) -> None:
        self._arrivals, self._paths = arrivals, paths

    def __call__(self, grads: tuple[Tensor | None, ...]) -> None:
        for path, port in self._paths if not self._arrivals.is_looking else ():
            self._arrivals.heard(path, grads[port])
