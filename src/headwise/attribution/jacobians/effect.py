"""What a small step of the parameters does to each loss, to first order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.optim import Optimizer

from headwise.attribution.jacobians.grouping import chosen_parameters
from headwise.attribution.jacobians.held import (
    call_with,
    fresh_pass,
    refuse_no_closure,
    same_draw,
    through_checkpoints,
    without_reducer,
)
from headwise.attribution.jacobians.jacobian import walk_losses
from headwise.attribution.jacobians.streaming import inner_product, on_cpu, stream
from headwise.attribution.jacobians.update import LastUpdate, next_update
from headwise.attribution.text import columns, first_line, wrapped
from headwise.attribution.tracing.named import Losses, named_losses, weighted_values
from headwise.refusals import refuse_sharded, refuse_unsafe
from headwise.tabular import Tabular

Direction: TypeAlias = "Literal['gradient'] | Optimizer | LastUpdate | Mapping[str, Tensor]"
Closure: TypeAlias = Callable[[], Losses]
_Found: TypeAlias = tuple[dict[str, float], dict[str, float], tuple[str, ...]]
"""Values and changes by loss, and the losses that nothing reaches."""

# Forward mode and the gradient are two ways to one number; further apart than low precision explains is an error.
AGREEMENT = 2e-2


class ForwardModeWarning(UserWarning):
    """Forward mode does not support a part of the network, so that one backward pass per loss was made instead."""


@dataclass(frozen=True)
class Effect(Tabular):
    """First-order changes of the losses for one step.

    Attributes:
        losses: Their names.
        values: Their values at the parameters as they are.
        changes: The inner product of each loss's gradient with the step; negative: the step helps the loss.
        method: "forward": all in one forward-mode pass. "rows": one backward pass per loss.
        reason: Why not "forward".
        unreached: The losses to which nothing that moves leads: their change is 0 whatever is trained.
    """

    losses: tuple[str, ...]
    values: tuple[float, ...]
    changes: tuple[float, ...]
    method: Literal["forward", "rows"]
    reason: str = ""
    unreached: tuple[str, ...] = ()

    def change(self, loss: str) -> float:
        """The change of one loss.

        Args:
            loss: Its name.

        Returns:
            Its first-order change.

        Raises:
            ValueError: If there is no such loss.
        """
        if loss not in self.losses:
            raise ValueError(f"effect: no loss {loss!r}. There are: {', '.join(self.losses)}.")
        return self.changes[self.losses.index(loss)]

    @property
    def harmed(self) -> tuple[str, ...]:
        """The losses that the step raises."""
        return tuple(loss for loss, change in zip(self.losses, self.changes, strict=True) if change > 0)

    def table_rows(self) -> list[dict[str, Any]]:
        """A row a loss."""
        return [
            {"loss": loss, "value": value, "change": change, "relative": change / value if value else None}
            for loss, value, change in zip(self.losses, self.values, self.changes, strict=True)
        ]

    def table_title(self) -> str:
        """How it was measured."""
        return "effect of a step" + (f", by rows: {self.reason}" if self.reason else "")

    def __str__(self) -> str:
        rows = [
            [loss, f"{value:.5g}", f"{change:+.3g}", f"{change / value:+.2%}" if value else "", _verdict(change)]
            for loss, value, change in zip(self.losses, self.values, self.changes, strict=True)
        ]
        return noted(columns(["loss", "value", "change", "relative", ""], rows), self.reason, self.unreached)


def noted(table: str, reason: str, unreached: Sequence[str]) -> str:
    """A table with what has to be known of it below.

    Args:
        table: Columns.
        reason: Why it was measured by rows; empty for not.
        unreached: Losses to which nothing leads.

    Returns:
        The text.
    """
    notes = [f"by rows: {reason}"] if reason else []
    if unreached:
        notes.append(
            f"{', '.join(unreached)}: no parameter that moves leads there, so 0 says nothing of training. A number, "
            "detached, of an earlier forward pass, or of another model?"
        )
    return "\n".join([table, *map(wrapped, notes)])


def _verdict(change: float) -> str:
    return "harmed" if change > 0 else "helped" if change < 0 else "unmoved"


def effect(
    closure: Closure,
    model: nn.Module,
    direction: Direction = "gradient",
    *,
    step: float = 1.0,
    names: Sequence[str] | None = None,
) -> Effect:
    """Tell what a small step does to each loss, for all losses in one forward-mode pass.

    change_k = <gradient of loss k, v>, with v the step. The price does not grow with the number of losses: a forward
    pass with tangents, after a plain forward and backward pass where the direction needs the gradient. Parameters,
    `.grad`, buffers (running statistics) and random state stay as they are; dropout draws the same in every pass.

    Args:
        closure: Makes a fresh forward pass with `model` and returns the losses (a dict, tuple or list, `Breakdown`).
        model: The network that the closure calls.
        direction: "gradient": v = -step * gradient of the sum. An optimizer: the update that it would make for this
            gradient. A `LastUpdate`: the update that the optimizer made last. A mapping: v by name of parameter; those
            left out do not move.
        step: A factor on v.
        names: Names of the losses of a tuple or list.

    Returns:
        The changes. If forward mode does not support a part of the network, they come from one backward pass per loss:
        `method` is "rows", `reason` says why, and a `ForwardModeWarning` is given.

    Raises:
        ValueError: If the direction does not fit the model, no loss has a graph, or parameters are sharded (FSDP2).
    """
    refuse_no_closure("effect", closure)
    parameters = chosen_parameters("effect", model, None)
    refuse_sharded("effect", parameters)
    move, expected = _move(closure, model, parameters, direction, step, names)
    try:
        values, changes, unreached = _forward(closure, model, parameters, move, names)
        reason = _disagreement(changes, expected)
    except (NotImplementedError, RuntimeError) as error:
        reason = first_line(error)
    if reason:
        warnings.warn(f"effect: {reason} Took one backward pass per loss instead.", ForwardModeWarning, stacklevel=2)
        values, changes, unreached = _rows(closure, model, parameters, move, names)
    method: Literal["forward", "rows"] = "rows" if reason else "forward"
    return Effect(tuple(values), tuple(values.values()), tuple(changes.values()), method, reason, unreached)


def _move(
    closure: Closure,
    model: nn.Module,
    parameters: dict[str, Tensor],
    direction: Direction,
    step: float,
    names: Sequence[str] | None,
) -> tuple[dict[str, Tensor], float | None]:
    """The step by parameter, and the change of the sum where that is known from the gradient alone."""
    if isinstance(direction, LastUpdate):
        direction = direction.update
    if isinstance(direction, Mapping):
        return {name: step * tensor for name, tensor in _checked(direction, parameters).items()}, None
    gradient = gradient_of(closure, model, parameters, names)
    if isinstance(direction, Optimizer):
        update = next_update(direction, parameters, gradient)
        move = {name: step * tensor for name, tensor in update.items()}
    elif direction == "gradient":
        move = {name: -step * tensor for name, tensor in gradient.items()}
    else:
        raise ValueError(
            f"direction: expected 'gradient', an optimizer, a LastUpdate or a mapping; found {direction!r}."
        )
    inner = [inner_product(gradient[name], tensor) for name, tensor in move.items() if name in gradient]
    return move, float(on_cpu(inner).sum())


def _checked(direction: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for name, tensor in direction.items():
        if name not in parameters:
            raise ValueError(f"direction: {name!r} is no parameter of the model that asks for a gradient.")
        if tensor.shape != parameters[name].shape:
            raise ValueError(
                f"direction: {name!r} has shape {tuple(tensor.shape)}, the parameter {tuple(parameters[name].shape)}."
            )
    return direction


def gradient_of(
    closure: Closure,
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    names: Sequence[str] | None,
    term: str | None = None,
) -> dict[str, Tensor]:
    """The gradient of one term, or of the sum of all, by a fresh forward and backward pass that leaves no trace.

    Args:
        closure: Makes the forward pass.
        model: The network that it calls.
        parameters: With respect to what, by name.
        names: Names of the losses of a tuple or list.
        term: Which; None for their sum.

    Returns:
        By parameter, where there is one.

    Raises:
        ValueError: No loss has a graph.
    """

    def both_passes() -> tuple[Tensor | None, ...]:
        values = weighted_values(closure(), names)
        if not values:
            raise ValueError("effect: no loss has a graph. The closure must make a fresh forward pass with gradients.")
        chosen = list(values.values()) if term is None else [values[term]]
        return torch.autograd.grad(chosen, list(parameters.values()), allow_unused=True)

    grads = fresh_pass(model, both_passes)
    return {name: grad for name, grad in zip(parameters, grads, strict=True) if grad is not None}


def _forward(
    closure: Closure,
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    move: Mapping[str, Tensor],
    names: Sequence[str] | None,
) -> _Found:
    """Values and changes of all losses by one pass with dual numbers."""
    values, changes, unreached = {}, {}, []
    with same_draw(model), without_reducer(model), through_checkpoints(), torch.no_grad(), forward_ad.dual_level():
        duals = {name: _dual(parameters[name].detach(), tangent) for name, tangent in move.items()}
        for loss in named_losses(call_with(model, closure, duals), names):
            value, tangent = (
                (torch.tensor(loss.number, dtype=torch.float64), None) if loss.tensor is None else _parts(loss.tensor)
            )
            values[loss.name], changes[loss.name] = value, torch.zeros(()) if tangent is None else tangent
            unreached += [loss.name] if tangent is None else []
    return _numbers(values), _numbers(changes), tuple(unreached)


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = forward_ad.make_dual(value, tangent.to(value.dtype))  # type: ignore[no-untyped-call]
    return dual


def _parts(dual: Tensor) -> tuple[Tensor, Tensor | None]:
    value, tangent = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    return value, tangent


def _numbers(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    return dict(zip(tensors, on_cpu([tensor.reshape(()) for tensor in tensors.values()]).tolist(), strict=True))


def _disagreement(changes: Mapping[str, float], expected: float | None) -> str:
    """Why the forward-mode changes cannot be right, or nothing."""
    if expected is None:
        return ""
    found = sum(changes.values())
    scale = max(sum(abs(change) for change in changes.values()), abs(expected))
    if abs(found - expected) <= AGREEMENT * scale:
        return ""
    return f"forward mode gives {found:.6g} for the sum where its gradient gives {expected:.6g}."


def _rows(
    closure: Closure,
    model: nn.Module,
    parameters: dict[str, Tensor],
    move: Mapping[str, Tensor],
    names: Sequence[str] | None,
) -> _Found:
    """The same by one backward pass per loss, over one graph."""

    def all_passes() -> _Found:
        named = named_losses(closure(), names)
        graphs = {loss.name: loss.scalar for loss in named if loss.scalar is not None}
        refuse_unsafe("effect", model, parameters, walk_losses(list(graphs.values())).nodes)
        moved = {name: parameters[name] for name in move}
        found = {name: _product(value, moved, move) for name, value in graphs.items()}
        reached = {name: change for name, change in found.items() if change is not None}
        values = {loss.name: loss.number for loss in named}
        unreached = tuple(name for name in values if name not in reached)
        return values, {name: reached.get(name, 0.0) for name in values}, unreached

    found: _Found = fresh_pass(model, all_passes)
    return found


def _product(value: Tensor, parameters: Mapping[str, Tensor], move: Mapping[str, Tensor]) -> float | None:
    """The inner product of one loss's gradient with the step; None where there is no gradient."""
    names = list(parameters)
    products: list[Tensor] = []

    def visit(index: int, gradient: Tensor) -> None:
        products.append(inner_product(gradient, move[names[index]]))

    stream([value], list(parameters.values()), visit)
    return sum(float(product) for product in products) if products else None
