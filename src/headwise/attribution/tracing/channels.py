"""Which channels of an output each loss reads, told from the autograd graph between the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.autograd.graph import Node

from headwise.attribution.tracing.node_rules import boxes_of_inputs, input_shapes, route_box
from headwise.attribution.tracing.regions import Region, Shape, add, members, project, whole
from headwise.attribution.tracing.view_rules import NodeOutput
from headwise.graph import Edge, gradient_edge, output_shapes, routes_of


@dataclass(frozen=True)
class Channels:
    """The channels of one output that one loss reads.

    Attributes:
        indices: Their indices along the channel dimension.
        size: How many channels the output has.
        exact: Whether these are the channels, rather than an upper bound.
        source: "static" (wired, from the graph), "value" (the gradient is not zero now) or "nan" (wired, even
            if a mask of zeros silences it now).
        fraction: Share of the output's elements with a gradient, where measured.
    """

    indices: tuple[int, ...]
    size: int
    exact: bool = True
    source: Literal["static", "value", "nan"] = "static"
    fraction: float | None = None

    def __str__(self) -> str:
        if not self.exact and len(self.indices) == self.size:
            return "unknown"
        return ("" if self.exact else "at most ") + ranges(self.indices, self.size)


def ranges(indices: Sequence[int], size: int) -> str:
    """Indices as slices: "0:2, 5", "all" or "none"."""
    if len(indices) == size:
        return "all"
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1]:
            runs[-1][1] = index + 1
        else:
            runs.append([index, index + 1])
    return ", ".join(f"{a}:{b}" if b - a > 1 else str(a) for a, b in runs) or "none"


def channel_dim_of(shape: Sequence[int], channel_dim: int) -> int:
    """The channel dimension of an output, from 0; the nearest that it has, if it has fewer dimensions."""
    found = channel_dim if channel_dim >= 0 else len(shape) + channel_dim
    return max(min(found, len(shape) - 1), 0)


def static_channels(
    loss: Tensor, outputs: Mapping[str, Tensor], nodes: Sequence[Node], channel_dim: int
) -> dict[str, Channels]:
    """Carry the region that one loss reaches from the loss down to the outputs.

    Args:
        loss: A scalar with a graph.
        outputs: The outputs, by path.
        nodes: All nodes of the graph in topological order, losses first.
        channel_dim: Which dimension of an output holds the channels.

    Returns:
        The channels of every output that the loss reaches.
    """
    edges = {path: gradient_edge(tensor) for path, tensor in outputs.items()}
    regions = _regions(loss, nodes, {edge for edge in edges.values() if edge is not None})
    found = {}
    for path, tensor in outputs.items():
        edge = edges[path]
        if edge is not None and edge in regions:
            found[path] = _channels(regions[edge], tensor, channel_dim_of(tensor.shape, channel_dim))
    return found


def _channels(region: Region, tensor: Tensor, dim: int) -> Channels:
    if tensor.ndim == 0:
        return Channels((0,), 1)
    size = tensor.shape[dim]
    indices, exact = project(region, dim, size)
    return Channels(tuple(members(indices)), size, exact)


def _regions(loss: Tensor, nodes: Sequence[Node], targets: set[Edge]) -> dict[Edge, Region]:
    root = gradient_edge(loss)
    if root is None:
        return {}
    above = _above(nodes, {node for node, _ in targets})
    regions: dict[Edge, Region] = {root: (whole(tuple(loss.shape)),)}
    for node in nodes:
        if node not in above:
            continue
        shapes = output_shapes(node)
        for port, shape in enumerate(shapes):
            region = regions.get((node, port))
            if region is not None and shape is not None:
                _descend(node, port, shape, region, regions)
    return regions


def _above(nodes: Sequence[Node], targets: set[Node]) -> set[Node]:
    """The nodes with a target below them; the rest need no arithmetic on regions."""
    above: set[Node] = set()
    for node in reversed(nodes):
        if any(child in above or child in targets for child, _ in node.next_functions if child is not None):
            above.add(node)
    return above


def _descend(node: Node, port: int, shape: Shape, region: Region, regions: dict[Edge, Region]) -> None:
    inputs = input_shapes(node)
    routes = routes_of(node)
    for box in region or ():
        if routes is not None:
            here = [route for route in routes if route[0] == port]
            pairs = [(route[1], route_box(route, box, inputs[route[1]] or ())) for route in here]
        else:
            pairs = [
                (i, each) for i, each in enumerate(boxes_of_inputs(NodeOutput(node, port, shape, inputs), box)) if each
            ]
        for index, reached in pairs:
            child, nr = node.next_functions[index]
            if child is not None:
                regions[child, nr] = add(regions.get((child, nr), ()), reached)
    if routes is None:
        _keep_wired(node, inputs, regions)


def _keep_wired(node: Node, inputs: Sequence[Shape | None], regions: dict[Edge, Region]) -> None:
    """An input of which nothing is read (cut away by a slice further up) is wired all the same."""
    for (child, nr), shape in zip(node.next_functions, inputs, strict=True):
        if child is not None and shape is not None:
            regions.setdefault((child, nr), ())
