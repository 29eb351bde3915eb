"""Layers of a network as attribution's tables know them: who reaches them, and how hard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwise.attribution.gram import TOTAL, Gram
from headwise.attribution.jacobians.jacobian_table import JacobianTable
from headwise.attribution.tracing.trace_table import Trace


@dataclass(frozen=True)
class Layer:
    """A group of parameters.

    Attributes:
        name: Of the module or group.
        losses: Those that reach it.
        groups: The groups of the `JacobianTable` in it.
        gram: What was measured, or None.
    """

    name: str
    losses: tuple[str, ...]
    groups: tuple[str, ...] = ()
    gram: Gram | None = None

    def norm(self, loss: str) -> float | None:
        """|g_k| here; `None` where the loss does not reach the layer, or nothing was measured."""
        return None if self.gram is None or loss not in self.losses else self.gram.norm(loss, self.groups)

    def cosine(self, one: str, other: str = TOTAL) -> float | None:
        """The cosine between two losses here, or of one with the sum; `None` where it is not known, or one is 0."""
        known = {*self.losses, TOTAL}
        if self.gram is None or one not in known or other not in known:
            return None
        return self.gram.cosine(one, other, self.groups)


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
        reached = tuple(loss for k, loss in enumerate(table.losses) if bool(table.reach[k, g]))
        if reached:
            layers.append(Layer(group, reached, (group,), table.gram))
    return layers


def merged(name: str, layers: Sequence[Layer]) -> Layer:
    """Several layers of one table as one.

    Args:
        name: Of the whole.
        layers: Its parts.

    Returns:
        The layer.
    """
    losses = dict.fromkeys(loss for layer in layers for loss in layer.losses)
    groups = tuple(group for layer in layers for group in layer.groups)
    return Layer(name, tuple(losses), groups, next((each.gram for each in layers), None))


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
