"""What the total adds, read from its graph: each loss how many times, and what was added without a name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from headwise.graph import output_shapes, topological, zero_factor_edges

_ADDING = {"AddBackward0", "SubBackward0", "RsubBackward0", "RsubBackward1", "NegBackward0"}
_PASSING = ("Clone", "ToCopy", "Squeeze", "Unsqueeze", "View", "Reshape", "Alias", "UnsafeView")
_SCALING = {"MulBackward0", "DivBackward0"}
_STACKING = {"StackBackward0", "CatBackward0"}
_POOLING = ("SumBackward", "MeanBackward")


@dataclass(frozen=True)
class Summands:
    """The additive top of a total's graph.

    Args:
        named: How many paths lead to each named loss.
        unnamed: The other scalars that it adds, and how many times.
    """

    named: Mapping[str, int]
    unnamed: Mapping[Node, int]


def summands(total: Tensor, losses: Mapping[str, Tensor]) -> Summands:
    """Take a total apart.

    Args:
        total: The scalar that backward is called on.
        losses: The losses, by name; the walk ends at them.

    Returns:
        What it adds.
    """
    stops = {loss.grad_fn: name for name, loss in losses.items() if loss.grad_fn is not None}
    root = total.grad_fn
    if root is None:
        return Summands({}, {})
    counts: dict[Node, int] = {root: 1}
    loose: set[Node] = set()
    named, unnamed = dict.fromkeys(losses, 0), {}
    for node in topological([root]):
        if node not in counts:
            continue
        if node in stops:
            named[stops[node]] += counts[node]
            continue
        strict, weak = _descends(node)
        if not (strict or weak):
            if node not in loose and _is_scalar(node):
                unnamed[node] = counts[node]
            continue
        for child, _ in node.next_functions:
            if child is not None:
                counts[child] = counts.get(child, 0) + counts[node]
                if weak or node in loose:
                    loose.add(child)
    return Summands(named, unnamed)


def _descends(node: Node) -> tuple[bool, bool]:
    """Whether a node only adds, scales or passes on; and whether it multiplies two things that are trained."""
    name = node.name()
    live = [child for child, _ in node.next_functions if child is not None]
    if name in _STACKING:
        return True, False
    if name.startswith(_POOLING):
        return _above_stack(node), False
    if not (_is_scalar(node) or _above_stack(node)):
        return False, False
    if name in _ADDING or name.startswith(_PASSING):
        return True, False
    if name in _SCALING:
        return len(live) == 1, len(live) == 2 and name == "MulBackward0"
    return False, False


def _above_stack(node: Node) -> bool:
    """Whether the node works on losses that were stacked into a vector."""
    for _ in range(4):
        live = [child for child, _ in node.next_functions if child is not None]
        stacked = [child for child in live if child.name() in _STACKING]
        if stacked:
            return all(_is_scalar(child) for child, _ in stacked[0].next_functions if child is not None)
        if len(live) != 1 or not (live[0].name() in _SCALING or live[0].name().startswith(_PASSING)):
            return False
        node = live[0]
    return False


def _is_scalar(node: Node) -> bool:
    shapes = output_shapes(node)
    return bool(shapes) and shapes[0] is not None and math.prod(shapes[0]) == 1


def scalar_factors(loss: Tensor) -> tuple[float, ...]:
    """The plain numbers that a loss was multiplied by last."""
    node, found = loss.grad_fn, []
    while node is not None:
        live = [child for child, _ in node.next_functions if child is not None]
        if node.name() == "MulBackward0" and len(live) == 1 and (factor := _saved_number(node)) is not None:
            found.append(factor)
        elif not (node.name().startswith(_PASSING) and _is_scalar(node)):
            break
        node = live[0] if live else None
    return tuple(found)


def _saved_number(node: Node) -> float | None:
    for name in ("_saved_other", "_saved_self"):
        value = getattr(node, name, None)
        if isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu":
            return float(value)
    return None


def is_silenced(loss: Tensor) -> bool:
    """Whether all of a loss was multiplied by a single number that is zero."""
    stops: list[Node | None] = [loss.grad_fn]
    seen: set[Node] = set()
    while stops:
        node = stops.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "MulBackward0" and zero_factor_edges(node) and _is_literal(node, loss):
            continue
        strict, _ = _descends(node)
        if not strict:
            return False
        stops.extend(child for child, _ in node.next_functions)
    return bool(seen)


def _is_literal(node: Node, loss: Tensor) -> bool:
    """Whether the factor is a number of the code rather than one that was computed from the batch."""
    saved = [getattr(node, name, None) for name in ("_saved_other", "_saved_self")]
    wide = (torch.float64, torch.int64)
    return loss.dtype == torch.float64 or any(isinstance(v, Tensor) and v.dtype in wide for v in saved)


def gradients_of(nodes: Mapping[Node, int], inputs: list[Tensor]) -> list[list[Tensor | None]]:
    """The gradient of each unnamed summand at the outputs."""
    found: list[list[Tensor | None]] = []
    for node in nodes:
        metadata = node._input_metadata[0]
        seed = torch.ones(metadata.shape, dtype=metadata.dtype, device=metadata.device)
        edge = GradientEdge(node, 0)
        found.append(list(torch.autograd.grad((edge,), inputs, (seed,), retain_graph=True, allow_unused=True)))
    return found
