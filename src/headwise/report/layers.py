"""Layers of a network as attribution's tables know them: who reaches them, and how hard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headwise.attribution.jacobians.jacobian_table import JacobianTable
from headwise.attribution.tracing.trace_table import Trace


@dataclass(frozen=True)
class Layer:
    """A group of parameters.

    Attributes:
        name: Of the module or group.
        losses: Those that reach it.
        squares: |g_k|^2 per loss that reaches it; empty where nothing was measured.
        groups: The groups of the `JacobianTable` in it.
    """

    name: str
    losses: tuple[str, ...]
    squares: Mapping[str, float] = field(default_factory=dict)
    groups: tuple[str, ...] = ()

    def norm(self, loss: str) -> float | None:
        """|g_k| here; `None` where the loss does not reach the layer."""
        return math.sqrt(self.squares[loss]) if loss in self.squares else None


def traced_layers(trace: Trace) -> list[Layer]:
    """Modules with parameters of their own, in the model's order, without frozen and unreached ones."""
    found: dict[str, dict[str, None]] = {}
    for row in trace.parameters:
        if row.requires_grad and row.losses:
            found.setdefault(row.name.rpartition(".")[0] or "(model)", {}).update(dict.fromkeys(row.losses))
    order = [row.name for row in trace.losses]
    return [Layer(name, tuple(loss for loss in order if loss in losses)) for name, losses in found.items()]


def measured_layers(table: JacobianTable) -> list[Layer]:
    """The table's groups that a loss reaches, in its order."""
    layers = []
    for g, group in enumerate(table.groups):
        reached = [k for k in range(len(table.losses)) if bool(table.reach[k, g])]
        squares = {table.losses[k]: float(table.squares[k, g]) for k in reached}
        if reached:
            layers.append(Layer(group, tuple(squares), squares, (group,)))
    return layers


def merged(name: str, layers: Sequence[Layer]) -> Layer:
    """Several layers as one: squared norms add up.

    Args:
        name: Of the whole.
        layers: Its parts.

    Returns:
        The layer.
    """
    squares: dict[str, float] = {}
    for layer in layers:
        for loss, square in layer.squares.items():
            squares[loss] = squares.get(loss, 0.0) + square
    losses = dict.fromkeys(loss for layer in layers for loss in layer.losses)
    return Layer(name, tuple(losses), squares, tuple(group for layer in layers for group in layer.groups))


def at_most(layers: Sequence[Layer], most: int) -> list[Layer]:
    """Layers merged by the beginning of their names, as deep as fits.

    Args:
        layers: In order.
        most: How many may remain; where even the topmost modules are more, those are returned.

    Returns:
        The layers, or fewer.
    """
    deepest = max((layer.name.count(".") + 1 for layer in layers), default=1)
    for depth in range(deepest, 0, -1):
        parts: dict[str, list[Layer]] = {}
        for layer in layers:
            parts.setdefault(".".join(layer.name.split(".")[:depth]), []).append(layer)
        if len(parts) <= most or depth == 1:
            return [merged(name, members) for name, members in parts.items()]
    return list(layers)


def conflict(table: JacobianTable, first: str, second: str, groups: Iterable[str]) -> float | None:
    """The cosine between two losses' gradients over some groups.

    Args:
        table: With a Gramian.
        first: A loss.
        second: Another.
        groups: Of the table.

    Returns:
        -1 to 1; `None` where a gradient is 0 or not finite there.
    """
    assert table.gramian is not None
    known = list(table.groups)
    j, k = table.losses.index(first), table.losses.index(second)
    both = table.gramian[[known.index(group) for group in groups]].sum(0)
    scale = math.sqrt(both[j, j]) * math.sqrt(both[k, k]) if bool((both.diagonal() >= 0).all()) else math.nan
    return max(-1.0, min(1.0, float(both[j, k]) / scale)) if scale > 0 and math.isfinite(scale) else None


def span(layers: Sequence[Layer]) -> str:
    """A short name for several layers: what their names begin with, or the first and the last."""
    if len(layers) == 1:
        return layers[0].name
    parts = [layer.name.split(".") for layer in layers]
    shared = []
    for together in zip(*parts, strict=False):
        if len(set(together)) > 1:
            break
        shared.append(together[0])
    if shared:
        return ".".join(shared)
    return f"{parts[0][0]} … {parts[-1][0]}"
