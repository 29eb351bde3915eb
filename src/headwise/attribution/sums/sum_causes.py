"""Names for what breaks the sum of the gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from headwise.attribution.sums.sum_measure import FirstPass, Passes
from headwise.attribution.tracing.text import names
from headwise.graph import gradient_edge, leaf_masks, topological, walk

Kind = Literal["in-place", "detach", "random-draw", "grad-mode", "nonlinear-backward", "total"]


@dataclass(frozen=True)
class Cause:
    """One thing that breaks the sum.

    Attributes:
        kind: "in-place": an edit changes what a later pass reads, or what the backward pass needs. "detach": a loss
            reaches no parameter. "random-draw": a draw that the global generators do not govern. "grad-mode": gradients
            are left switched off. "nonlinear-backward": a backward pass that is not linear in what it gets. "total":
            what is trained on is not the sum.
        subject: The loss, tensor, node or parameter.
        evidence: Numbers, and the lines of code where known.
    """

    kind: Kind
    subject: str
    evidence: str


def in_place_error(first: FirstPass, error: str) -> Cause:
    """The backward pass needs what an edit in place overwrote."""
    return Cause("in-place", "the backward pass", f"{error} Written in place: {_lines(first.suspects.in_place)}")


def cut_off(passes: Passes, first: FirstPass) -> list[Cause]:
    """Losses from which no gradient arrives, and gradients left switched off."""
    found = []
    if first.left_off:
        where = _lines(first.suspects.grad_mode)
        found.append(Cause("grad-mode", "the closure", f"gradients are switched off when it returns: {where}"))
    for loss in first.losses:
        if loss.value is None:
            continue
        if not loss.has_graph and first.left_off:
            found.append(Cause("grad-mode", f"loss {loss.name!r}", "computed with gradients switched off: no graph"))
        elif not loss.has_graph:
            where = _lines(first.suspects.detaching + first.suspects.grad_mode)
            found.append(Cause("detach", f"loss {loss.name!r}", f"no graph, so it trains nothing: {where}"))
        elif not _reaches(passes, first, loss.name):
            where = _lines(first.suspects.detaching)
            found.append(Cause("detach", f"loss {loss.name!r}", f"its graph reaches no parameter: {where}"))
    return found


def _reaches(passes: Passes, first: FirstPass, name: str) -> bool:
    value = next(loss.value for loss in first.losses if loss.name == name)
    edge = gradient_edge(value) if value is not None else None
    if edge is None:
        return False
    traced = walk([(edge, 1)], 1)
    masks = leaf_masks(traced)
    hidden = any("CheckpointFunctionBackward" in node.name() for node in traced.nodes)
    return hidden or any(id(leaf) in masks for leaf in passes.leaves.values())


def drifted(first: FirstPass, drift: Mapping[str, tuple[float, float]]) -> list[Cause]:
    """Losses that two passes from the same state and draw do not give the same value."""
    if not drift:
        return []
    values = ", ".join(f"{name!r} {a:.6g} then {b:.6g}" for name, (a, b) in drift.items())
    if first.edited:
        evidence = f"each pass changes it ({values}): {_lines(first.suspects.in_place)}"
        return [Cause("in-place", names(first.edited), evidence)]
    own = [place for place in first.suspects.drawing if "generator" in place]
    evidence = f"{values}, from the same state of the global generators: {_lines(own or first.suspects.drawing)}"
    return [Cause("random-draw", f"loss {names(drift)}", evidence)]


def backward_cause(first: FirstPass, passes: Passes, repeated: float, worst: float, where: str, limit: float) -> Cause:
    """Values agree between passes, gradients do not: the backward pass draws, or is not linear."""
    if repeated > limit:
        evidence = f"two backward passes of the same sum differ by {repeated:.1e} at {where}"
        return Cause("random-draw", "the backward pass", evidence)
    evidence = f"the losses' gradients differ from that of their sum by {worst:.1e} at {where}"
    return Cause("nonlinear-backward", suspects_of(_nodes(first), passes.leaves), evidence)


def suspects_of(nodes: Iterable[Node], leaves: Mapping[str, Tensor]) -> str:
    """What may make a backward pass that is not linear.

    Args:
        nodes: Of the losses' graph.
        leaves: The parameters.

    Returns:
        Autograd functions of the user's, and parameters with hooks.
    """
    custom = {node.name() for node in nodes if issubclass(type(node), BackwardCFunction)}
    hooked = [name for name, leaf in leaves.items() if leaf._backward_hooks]
    suspects = [*sorted(custom), *(f"a hook on {name}" for name in hooked)]
    return names(suspects) if suspects else "a hook on a tensor or module"


def _nodes(first: FirstPass) -> list[Node]:
    edges = [gradient_edge(loss.value) for loss in first.losses if loss.value is not None]
    return topological(edge[0] for edge in edges if edge is not None)


def total_cause(coefficients: Mapping[str, float]) -> Cause:
    """What is trained on holds some losses other than once."""
    odd = [f"{name!r} x {value:.3g}" for name, value in coefficients.items() if abs(value - 1) > 1e-3]
    return Cause("total", "the total", f"its gradient holds {names(odd) if odd else 'something that is no loss'}")


def _lines(places: list[str]) -> str:
    return f"see {names(places)}" if places else "no such call was seen in the losses"
