"""The flow from losses to heads to what they share to the inputs, from attribution's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count

from headwise.report.figures.flow import Flow, Link
from headwise.report.sections.layers import Layer, merged, span

_REACH = "reached"


@dataclass(frozen=True)
class _Stages:
    """Layers sorted by how many losses share them; each stage's layers have distinct names."""

    heads: list[Layer]
    some: list[Layer]
    trunk: list[Layer]
    inputs: list[Layer]

    def named(self) -> dict[str, list[Layer]]:
        stages = {"heads": self.heads, "shared by some": self.some, "trunk": self.trunk, "inputs": self.inputs}
        return {heading: layers for heading, layers in stages.items() if layers}


def loss_flow(losses: Sequence[str], layers: Sequence[Layer], caption: str, unit: str = "") -> Flow:
    """Draw where each loss goes: its own head, what it shares with others, the layer at the inputs.

    Args:
        losses: All of them, also those that reach nothing.
        layers: In the model's order, inputs first. Where they have norms, ribbons are as wide as these; else every
            ribbon says only that the loss reaches the layer.
        caption: How to read it.
        unit: Of the norms.

    Returns:
        The figure.
    """
    stages = _distinct(losses, _sorted(layers).named())
    # What only some share stands on top, so that ribbons of other losses pass below it.
    partly = {loss for layer in stages.get("shared by some", ()) for loss in layer.losses}
    order = sorted(losses, key=lambda loss: loss not in partly)
    stages = {heading: _ordered(members, order) for heading, members in stages.items()}
    links: list[Link] = []
    for loss in order:
        source = loss
        for members in stages.values():
            reached = [layer for layer in members if loss in layer.losses]
            for layer in reached:
                norm = layer.norm(loss)
                links.append(Link(source, layer.name, 1.0 if norm is None else norm, loss))
            source = reached[0].name if reached else source
    drawn = {"losses": order, **{heading: [layer.name for layer in found] for heading, found in stages.items()}}
    measured = any(layer.gram is not None for layer in layers)
    return Flow("From losses to inputs", drawn, links, unit if measured else _REACH, caption, losses)


def _ordered(layers: Sequence[Layer], losses: Sequence[str]) -> list[Layer]:
    """Layers in the order of the first loss that reaches each."""
    return sorted(layers, key=lambda layer: min(losses.index(loss) for loss in layer.losses))


def _sorted(layers: Sequence[Layer]) -> _Stages:
    """Heads are what one loss reaches alone; where nothing is, the last layer is the head that all share."""
    most = max((len(layer.losses) for layer in layers), default=0)
    alone = [layer for layer in layers if len(layer.losses) == 1]
    some = [layer for layer in layers if 1 < len(layer.losses) < most]
    widest = [layer for layer in layers if len(layer.losses) == most > 1]
    inputs, trunk = widest[:1], widest[1:]
    heads = _by_losses(alone)
    if not heads and trunk:
        heads, trunk = trunk[-1:], trunk[:-1]
    return _Stages(heads, _by_losses(some), _by_losses(trunk), inputs)


def _by_losses(layers: Sequence[Layer]) -> list[Layer]:
    """One layer for each set of losses."""
    sets: dict[tuple[str, ...], list[Layer]] = {}
    for layer in layers:
        sets.setdefault(layer.losses, []).append(layer)
    return [merged(span(members), members) for members in sets.values()]


def _distinct(losses: Sequence[str], stages: Mapping[str, Sequence[Layer]]) -> dict[str, list[Layer]]:
    """Names that stand for one node each, as short as that allows."""
    taken, found = set(losses), dict[str, list[Layer]]()
    for heading, members in stages.items():
        found[heading] = []
        for layer in members:
            numbered = (f"{layer.name} ({heading}{f' {n}' if n > 1 else ''})" for n in count(1))
            name = next(name for name in chain((_short(layer.name), layer.name), numbered) if name not in taken)
            taken.add(name)
            found[heading].append(replace(layer, name=name))
    return found


def _short(name: str) -> str:
    """`backbone.body.conv1` as `conv1`, `head.convs.0` as `convs.0`."""
    parts = name.split(".")
    begin = max((place for place, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[begin:])
