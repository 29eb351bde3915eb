"""Which losses reach what: bits carried down the autograd graph, for all losses at once.

Every node gets one integer: bit k says that loss k reaches it, bit K + k that it does so through more than a factor
known to be zero. A node's integer merges what passes side by side through it; nodes that tell which of their outputs
belongs to which of their inputs are walked output by output (see `headwise.graph`).

Training makes the same graph again in every step. So the walk has two halves: `read` writes down all that the bits
depend on, as numbers and names, and `carry` is a function of what was written and of nothing else, whose last answers
are kept. Graphs that differ in anything that was written are different questions; no other sign of sameness is trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from headwise.graph import LEAF, Edge, Route, opaque_reason, ordered, routes_of

KEPT = 8
"""How many answers are kept: a step walks few graphs, and a large one takes megabytes."""

_NO_GRADIENT, _END = -1, -2


@dataclass(frozen=True)
class Structure:
    """A graph without its nodes: all that bits depend on. Nodes have numbers, in the order in which they were met.

    Attributes:
        kinds: The name of each node.
        inputs: Node after node, for each of its inputs the number of the node that it comes from and which output of
            that it is, or one number that says that it has no gradient; then a number that says that the node ends.
        routes: Of the nodes that tell them, which output comes from which input.
        zeros: Of products, the inputs whose other factor is known to be zero.
    """

    kinds: tuple[str, ...]
    inputs: tuple[int, ...]
    routes: tuple[tuple[int, tuple[Route, ...]], ...]
    zeros: tuple[tuple[int, frozenset[int]], ...]

    def edges(self) -> list[list[tuple[int, int] | None]]:
        """The inputs of each node, None for those without a gradient."""
        found: list[list[tuple[int, int] | None]] = [[]]
        rest = iter(self.inputs)
        for number in rest:
            if number == _END:
                found.append([])
            else:
                found[-1].append(None if number == _NO_GRADIENT else (number, next(rest)))
        return found[:-1]


@dataclass(frozen=True)
class Carried:
    """The answer for a structure.

    Attributes:
        order: The numbers of the nodes in topological order, losses first.
        masks: The bits of each node, by number.
        ports: The same per output, for the nodes that are watched or routed.
        leaves: The numbers of the nodes that stand for a leaf tensor.
        opaque: The numbers of the nodes that cannot be seen into, in topological order.
    """

    order: tuple[int, ...]
    masks: tuple[int, ...]
    ports: Mapping[int, Mapping[int, int]]
    leaves: tuple[int, ...]
    opaque: tuple[int, ...]


@dataclass(frozen=True)
class Walk:
    """The graph below the losses, with one mask per node and per watched edge.

    Bit k of a mask: loss k reaches; bit K + k: through more than zero weight.

    Attributes:
        numbers: All nodes, each with its number.
        found: The bits, by these numbers.
        num_losses: K.
    """

    numbers: Mapping[Node, int]
    found: Carried
    num_losses: int

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes in topological order, losses first."""
        return self._named(self.found.order)

    @cached_property
    def opaque(self) -> tuple[Node, ...]:
        """The nodes that the walk cannot see into, in the same order."""
        return self._named(self.found.opaque)

    def _named(self, numbers: Sequence[int]) -> tuple[Node, ...]:
        nodes = tuple(self.numbers)
        return tuple(nodes[number] for number in numbers)

    def mask(self, node: Node) -> int:
        """The mask of a node of the graph."""
        return self.found.masks[self.numbers[node]]

    def edge_mask(self, edge: Edge | None) -> int:
        """The mask of one edge that was watched; 0 where no loss reaches it."""
        number = self.numbers.get(edge[0]) if edge is not None else None
        return self.found.ports[number].get(edge[1], 0) if edge is not None and number is not None else 0

    def leaf_masks(self) -> dict[int, int]:
        """The masks of the leaves, by the identity of the leaf tensor."""
        nodes: tuple[Any, ...] = tuple(self.numbers)
        return {id(nodes[number].variable): self.found.masks[number] for number in self.found.leaves}

    def reached(self, mask: int) -> int:
        """The bits of the losses that reach."""
        return mask & ((1 << self.num_losses) - 1)


def walk(roots: Sequence[tuple[Edge, int]], num_losses: int, watched: Iterable[Edge] = ()) -> Walk:
    """Carry the masks of the losses down the graph, all at once.

    Args:
        roots: Gradient edge of each loss with its starting bits.
        num_losses: K.
        watched: Edges whose own masks are wanted, not only those of their nodes.

    Returns:
        The nodes and their masks.
    """
    numbers, structure = read(node for (node, _), _ in roots)
    starts = tuple((numbers[node], port, bits) for (node, port), bits in roots)
    marked = tuple(numbers[node] for node, _ in watched if node in numbers)
    return Walk(numbers, carry(structure, starts, num_losses, marked), num_losses)


def read(roots: Iterable[Node]) -> tuple[dict[Node, int], Structure]:
    """Write down the graph below some nodes.

    Args:
        roots: The nodes.

    Returns:
        All nodes, each with its number, and the structure.
    """
    nodes, numbers, inputs = _numbered(roots)
    types = list(map(type, nodes))
    first = dict(zip(types, nodes, strict=True))
    # Torch spells a name anew each time, which takes longer than the visit: a type of one kind alone is asked once.
    names = {kind: name for kind, node in first.items() if (name := node.name()).endswith(kind.__name__)}
    kinds = tuple([names.get(kind) or node.name() for kind, node in zip(types, nodes, strict=True)])
    custom = {kind for kind in first if issubclass(kind, BackwardCFunction)}
    told = [(number, routes_of(nodes[number])) for number, kind in enumerate(types) if kind in custom]
    said = ((number, [cast("Route", tuple(one)) for one in each]) for number, each in told if each is not None)
    routes = tuple((number, tuple(each)) for number, each in said)
    products = (number for number, kind in enumerate(kinds) if kind == "MulBackward0")
    zeros = tuple((number, zero_factor_edges(nodes[number])) for number in products)
    return numbers, Structure(kinds, tuple(inputs), routes, zeros)


def _numbered(roots: Iterable[Node]) -> tuple[list[Node], dict[Node, int], list[int]]:
    """All nodes, their numbers, and their inputs as a `Structure` has them."""
    nodes = list(dict.fromkeys(roots))
    numbers = {node: number for number, node in enumerate(nodes)}
    inputs: list[int] = []
    for node in nodes:  # which grow on the way
        for child, port in node.next_functions:
            if child is None:
                inputs.append(_NO_GRADIENT)
                continue
            number = numbers.get(child)
            if number is None:
                number = numbers[child] = len(nodes)
                nodes.append(child)
            inputs.append(number)
            inputs.append(port)
        inputs.append(_END)
    return nodes, numbers, inputs


@lru_cache(maxsize=KEPT)
def carry(
    structure: Structure, roots: tuple[tuple[int, int, int], ...], num_losses: int, watched: tuple[int, ...]
) -> Carried:
    """Carry bits down a structure.

    Args:
        structure: The structure.
        roots: Where each loss enters: node, output, bits.
        num_losses: K.
        watched: The nodes whose outputs are told apart.

    Returns:
        The bits.
    """
    low = (1 << num_losses) - 1
    routes, zeros = dict(structure.routes), dict(structure.zeros)
    ports: dict[int, dict[int, int]] = {number: {} for number in (*watched, *routes)}
    masks = [0] * len(structure.kinds)

    def send(number: int, port: int, bits: int) -> None:
        masks[number] |= bits
        if number in ports:
            ports[number][port] = ports[number].get(port, 0) | bits

    for number, port, bits in roots:
        send(number, port, bits)
    edges = structure.edges()
    order = ordered([number for number, _, _ in roots], lambda node: [each[0] for each in edges[node] if each])
    for node in order:
        inputs = edges[node]
        if node in routes:
            passed = [(inputs[input_nr], ports[node].get(output_nr, 0)) for output_nr, input_nr, *_ in routes[node]]
        else:
            dead = zeros.get(node, ())
            passed = [(each, masks[node] & low if nr in dead else masks[node]) for nr, each in enumerate(inputs)]
        for each, bits in passed:
            if each is not None:
                send(*each, bits)
    leaves = tuple(number for number, kind in enumerate(structure.kinds) if kind == LEAF)
    opaque = tuple(number for number in order if opaque_reason(structure.kinds[number]) is not None)
    return Carried(tuple(order), tuple(masks), ports, leaves, opaque)


def zero_factor_edges(node: Node) -> frozenset[int]:
    """The inputs of a product whose other factor is a single number known to be zero."""
    factors = (getattr(node, "_raw_saved_other", None), getattr(node, "_raw_saved_self", None))
    return frozenset(index for index, factor in enumerate(factors) if _is_zero(factor))


def _is_zero(saved: Any) -> bool:
    # Unpacking under a hook would run a checkpoint again or copy from another device: leave it unknown.
    if saved is None or getattr(saved, "unpack_hook", None) is not None:
        return False
    try:
        value = saved.data
    except RuntimeError:
        return False
    small = isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu"
    return small and value.item() == 0
