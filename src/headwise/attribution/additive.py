"""The additive top of a graph: what a scalar adds up, how often, and where a loss stands in it.

A graph is followed through what adds, scales by a number, passes on, pools or stacks. Factors are never read from
nodes: they are derivatives, which autograd takes at any edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from headwise.graph import Edge, gradient_edge, output_shapes, saved

_ADDING = {"AddBackward0", "SubBackward0", "RsubBackward0", "RsubBackward1", "NegBackward0"}
_PASSING = (
    "Clone", "ToCopy", "Squeeze", "Unsqueeze", "View", "Reshape", "Alias", "UnsafeView", "Expand", "Where",
)  # fmt: skip
_STACKING = {"StackBackward0", "CatBackward0"}
_POOLING = ("SumBackward", "MeanBackward")
_SCALING = {"MulBackward0", "DivBackward0"}


@dataclass(frozen=True)
class Region:
    """What a scalar adds up.

    Attributes:
        counts: Per edge of the additive top, by how many paths it is added.
        summands: The edges at which the walk through scalars ends, and how often each is added.
    """

    counts: Mapping[Edge, int]
    summands: Mapping[Edge, int]


def region(total: Tensor) -> Region:
    """Follow a scalar's graph as far as it adds.

    Args:
        total: A tensor with a graph.

    Returns:
        The edges that it adds up, and the summands: scalars that are no sums themselves.
    """
    root = gradient_edge(total)
    if root is None:
        return Region({}, {})
    everywhere, _ = _walk(root, deep=True)
    _, ends = _walk(root, deep=False)
    return Region(everywhere, ends)


def added_below(edge: Edge) -> Mapping[Edge, int]:
    """The edges that what stands at an edge adds up, its own among them."""
    return _walk(edge, deep=True)[0]


def _walk(root: Edge, deep: bool) -> tuple[dict[Edge, int], dict[Edge, int]]:
    counts, ends = {root: 1}, {}
    for node in _ordered(root[0], deep):
        down = _parts(node, deep)
        for port in range(max(len(output_shapes(node)), 1)):
            count = counts.get((node, port), 0)
            if not count:
                continue
            if not down:
                ends[node, port] = count
            for edge in down:
                counts[edge] = counts.get(edge, 0) + count
    return counts, ends


def _ordered(root: Node, deep: bool) -> list[Node]:
    """The nodes of the region, each before its parts."""
    order: list[Node] = []
    seen = {root}
    stack = [(root, iter(_parts(root, deep)))]
    while stack:
        node, parts = stack[-1]
        for child, _ in parts:
            if child not in seen:
                seen.add(child)
                stack.append((child, iter(_parts(child, deep))))
                break
        else:
            order.append(node)
            stack.pop()
    return order[::-1]


def _parts(node: Node, deep: bool) -> tuple[Edge, ...]:
    """The inputs that a node adds, scales or passes on; none where it does something else.

    Deep: also inside of what is not a scalar (losses per sample), and through a product of two things that are trained.
    """
    name = node.name()
    live = tuple((child, nr) for child, nr in node.next_functions if child is not None)
    if not live:
        return ()
    if name in _STACKING:
        return live if deep or all(size_of(*edge) == 1 for edge in live) else ()
    if name.startswith(_POOLING):
        return live if deep or _is_stack(node) or size_of(*live[0]) == 1 else ()
    if not (deep or size_of(node) == 1 or _is_stack(node)):
        return ()
    if name in _ADDING or name.startswith(_PASSING):
        return live
    if name not in _SCALING or (name == "DivBackward0" and node.next_functions[1][0] is not None):
        return ()
    if len(live) == 2:
        return live if deep and size_of(node) == 1 else ()
    return live if size_of(node) == 1 or _is_stack(node) or _scales_alike(node) else ()


def _is_stack(node: Node) -> bool:
    """Whether the node works on scalars that were stacked into a vector."""
    for _ in range(4):
        live = [child for child, _ in node.next_functions if child is not None]
        stacked = [child for child in live if child.name() in _STACKING]
        if stacked:
            return all(size_of(*edge) == 1 for edge in stacked[0].next_functions if edge[0] is not None)
        if len(live) != 1 or not (live[0].name() in _SCALING or live[0].name().startswith(_PASSING)):
            return False
        node = live[0]
    return False


def _scales_alike(node: Node) -> bool:
    """Whether all elements are scaled by one number, as far as that is known without running anything again."""
    known = _factors(node)
    return bool(known) and all(value.numel() == 1 for value in known)


def _factors(node: Node) -> list[Tensor]:
    """What a product or quotient keeps of its factors, but for what a hook holds."""
    found = []
    for name in ("_saved_other", "_saved_self"):
        try:
            value = saved(node, name)
        except (AttributeError, RuntimeError):
            continue
        found += [value] if isinstance(value, Tensor) else []
    return found


def size_of(node: Node | None, port: int = 0) -> int | None:
    """How many elements a node computed; None where unknown."""
    shapes = output_shapes(node) if node is not None else ()
    shape = shapes[port] if port < len(shapes) else None
    return None if shape is None else math.prod(shape)


def links(loss: Tensor) -> list[Edge]:
    """The edges below a loss at which it is still a multiple of one thing (and a constant), the loss's own first."""
    edge = gradient_edge(loss)
    found: list[Edge] = []
    while edge is not None:
        found.append(edge)
        parts = _parts(edge[0], deep=True)
        edge = parts[0] if len(parts) == 1 else None
    return found


def derivatives(scalar: Tensor, edges: Sequence[Edge]) -> list[Tensor | None]:
    """The derivative of a scalar at edges of its graph, which stays usable."""
    if not edges or not scalar.requires_grad:
        return [None] * len(edges)
    inputs = [GradientEdge(*edge) for edge in edges]
    return list(torch.autograd.grad(scalar, inputs, retain_graph=True, allow_unused=True))


def edge_gradients(edges: Iterable[Edge], inputs: Sequence[Any]) -> list[list[Tensor | None]]:
    """The gradient of what stands at each edge (of its sum, if it has several elements) at the inputs."""
    found: list[list[Tensor | None]] = []
    for node, port in edges:
        metadata = node._input_metadata[port]
        seed = torch.ones(metadata.shape, dtype=metadata.dtype, device=metadata.device)
        root = GradientEdge(node, port)
        found.append(list(torch.autograd.grad((root,), inputs, (seed,), retain_graph=True, allow_unused=True)))
    return found


def is_silenced(loss: Tensor) -> bool:
    """Whether all of a loss was multiplied by a number of the code (not of the batch) that is zero."""
    root = gradient_edge(loss)
    if root is None:
        return False
    stops, seen = [root[0]], set()
    while stops:
        node = stops.pop()
        if node in seen:
            continue
        seen.add(node)
        if has_literal_zero(node):
            continue
        parts = _parts(node, deep=False)
        if not parts:
            return False
        stops.extend(child for child, _ in parts)
    return True


def has_literal_zero(node: Node) -> bool:
    """Whether a node multiplies by a number of the code that is zero."""
    if node.name() != "MulBackward0":
        return False
    # A Python number is kept in float64 or int64, a number of the batch in the loss's own type.
    wide = (torch.float64, torch.int64)
    return any(value.numel() == 1 and value.dtype in wide and not value.item() for value in _factors(node))


def literal_factors(loss: Tensor) -> tuple[float, ...]:
    """The plain numbers that a loss was multiplied by last."""
    found = []
    for node, _ in links(loss):
        if node.name() == "MulBackward0":
            found += [float(value) for value in _factors(node) if value.numel() == 1 and value.device.type == "cpu"]
        elif size_of(node) != 1 or not node.name().startswith(_PASSING):
            break
    return tuple(found)
