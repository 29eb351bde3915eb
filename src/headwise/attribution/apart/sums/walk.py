"""A walk over the additive top of a graph: where a sum ends, and with which factor each of its summands enters it.

The factors are the derivatives along the way, formed by the nodes' own formulas, from one node to the next: no hook of
the user's fires, nothing of the network is visited, nothing that the backward pass needs is freed, and no number is
read, but where one loss is picked from a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from headwise.attribution.apart.sums.linear import STACKING, Linearity, like
from headwise.graph import Edge, ordered, output_shapes, routes_of

_PICKING = ("Select", "Unbind", "Index", "Slice", "Split", "Gather")


@dataclass(frozen=True)
class Sum:
    """A number as a sum.

    Args:
        points: Where the sum ends, each with the derivative of the number with respect to it.
        passed: The same for every edge on the way, from the number downwards.
    """

    points: Mapping[Edge, Tensor]
    passed: Mapping[Edge, Tensor]


def walk_sum(
    roots: Sequence[tuple[Edge, Tensor]],
    *,
    ends: Collection[Edge] = (),
    known: Collection[Edge] = (),
    wide: bool = False,
) -> Sum:
    """Follows a number down to its summands.

    Args:
        roots: Where it starts, each edge with the derivative of the number with respect to it.
        ends: Edges at which the walk ends, whatever lies below.
        known: Edges of losses that have a name; see `Linearity`.
        wide: Whether tensors of any size are followed.

    Returns:
        The sum.
    """
    linear, stops = Linearity(wide, ends, known), frozenset(ends)

    def below(node: Node) -> list[Edge]:
        edges = [node.next_functions[number] for number in linear.through(node)]
        return [(child, port) for child, port in edges if child is not None and (child, port) not in stops]

    order = in_order([edge for edge, _ in roots if edge not in stops], below)
    passed: dict[Edge, Tensor] = {}
    for edge, derivative in roots:
        passed[edge] = passed[edge] + derivative if edge in passed else derivative
    ended = {edge for edge, _ in roots if edge in stops}
    picked: set[Edge] = set()
    with torch.no_grad():
        for node in order:
            ports = range(max(1, len(output_shapes(node))))
            arriving = [passed.get((node, port)) if (node, port) not in stops else None for port in ports]
            through = linear.through(node)
            passed_on = _outputs_of(node, through)
            ended |= {(node, port) for port, each in enumerate(arriving) if each is not None and port not in passed_on}
            if not through:
                continue
            name = node.name()
            is_stack = name in STACKING
            is_picked = name.startswith(_PICKING) or any((node, port) in picked for port in ports)
            for edge, derivative in _sent(node, arriving, through):
                # Of a stack of losses from which one was picked the others are no part; only here a number is read.
                if is_picked and is_stack and derivative.numel() == 1 and not bool(derivative):
                    continue
                picked |= {edge} if is_picked and not is_stack else set()
                passed[edge] = passed[edge] + derivative if edge in passed else derivative
                ended |= {edge} & stops
    return Sum({edge: passed[edge] for edge in passed if edge in ended}, passed)


def in_order(edges: Sequence[Edge], below: Callable[[Node], Sequence[Edge]]) -> list[Node]:
    """The nodes of a sum, each before what it passes on to.

    Args:
        edges: Where it starts.
        below: What a node passes on to.

    Returns:
        The nodes.
    """
    return ordered([node for node, _ in edges], lambda node: [child for child, _ in below(node)])


def _outputs_of(node: Node, through: Collection[int]) -> Collection[int]:
    """The outputs of a node that it passes on to its inputs."""
    routes = routes_of(node)
    if routes is None:
        return range(max(1, len(output_shapes(node)))) if through else ()
    return {output_nr for output_nr, input_nr, *_ in routes if input_nr in through}


def _sent(node: Node, arriving: list[Tensor | None], through: Collection[int]) -> list[tuple[Edge, Tensor]]:
    """What a node passes on to its inputs."""
    routes = routes_of(node)
    if routes is not None:
        parts = {input_nr: arriving[output_nr] for output_nr, input_nr, *_ in routes}
    else:
        formula: Any = node  # a node of autograd is its own formula, though its type does not say so
        found = formula(*arriving)
        parts = dict(enumerate(found if isinstance(found, tuple) else (found,)))
    sent = []
    for number in through:
        (child, port), part = node.next_functions[number], parts.get(number)
        if child is not None and part is not None:
            sent.append(((child, port), like((child, port), part)))
    return sent
