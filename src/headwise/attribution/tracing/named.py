"""Losses and outputs by name, whatever structure the training code returns them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Weighted(Protocol):
    """An entry of a `Breakdown`: anything that holds its weighted value as `weighted`."""

    @property
    def weighted(self) -> Tensor:
        """Weight * value."""
        ...


LossLike: TypeAlias = "Tensor | float | Weighted"
Losses: TypeAlias = "Mapping[str, LossLike] | Sequence[LossLike] | LossLike"


@dataclass(frozen=True)
class NamedLoss:
    """One loss of a step.

    Attributes:
        name: Its key, or its position in the tuple.
        value: The weighted value, or None where the loss is not a tensor.
        weight: The known weight (a `Breakdown` has it), else None.
        split_variant: Why its gradient depends on how a batch is split, where a `Breakdown` tells.
    """

    name: str
    value: Tensor | None
    weight: float | None = None
    split_variant: str | None = None

    @property
    def has_graph(self) -> bool:
        """Whether a gradient can flow from this loss at all."""
        return self.value is not None and self.value.requires_grad


def named_losses(losses: Losses, names: Sequence[str] | None = None) -> tuple[NamedLoss, ...]:
    """Give every loss a name.

    Args:
        losses: A mapping (also a `Breakdown`), a tuple or list, or one loss. Values are scalar tensors,
            numbers, or entries with an attribute `weighted`.
        names: Names for a tuple or list; without them the positions "0", "1", ... are used.

    Returns:
        The losses, in their order.

    Raises:
        ValueError: If there is none, the number of names differs, or a loss is neither number nor scalar.
    """
    pairs = list(_pairs(losses))
    if names is not None:
        if len(names) != len(pairs) or len(set(names)) != len(names):
            raise ValueError(f"names: {len(pairs)} losses need as many different names, found {list(names)}.")
        pairs = [(name, loss) for name, (_, loss) in zip(names, pairs, strict=True)]
    if not pairs:
        raise ValueError("losses: there is none. Pass a dict, a tuple or list, a Breakdown, or one scalar tensor.")
    return tuple(_named_loss(name, loss) for name, loss in pairs)


def _pairs(losses: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(losses, Mapping):
        yield from ((str(name), loss) for name, loss in losses.items())
    elif isinstance(losses, Sequence) and not isinstance(losses, str):
        yield from ((str(index), loss) for index, loss in enumerate(losses))
    else:
        yield "0", losses


def _named_loss(name: str, loss: Any) -> NamedLoss:
    if isinstance(loss, Weighted):
        weight, why = _known(getattr(loss, "weight", None)), getattr(loss, "split_variant", None)
        return NamedLoss(name, loss.weighted, weight, why)
    if isinstance(loss, bool) or not isinstance(loss, Tensor | float | int):
        raise ValueError(f"loss {name!r}: expected a scalar tensor or a number, found {type(loss).__name__}.")
    if not isinstance(loss, Tensor):
        return NamedLoss(name, None)
    if loss.numel() != 1:
        raise ValueError(f"loss {name!r}: expected a scalar, found shape {tuple(loss.shape)}. Sum or average it.")
    return NamedLoss(name, loss)


def _known(weight: Any) -> float | None:
    """The weight as a number, where reading it needs no copy from a device."""
    if isinstance(weight, Tensor):
        return float(weight.detach()) if weight.device.type == "cpu" and weight.numel() == 1 else None
    return float(weight) if isinstance(weight, float | int) else None


def weighted_values(losses: Losses, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The losses that are tensors with a graph, by name.

    Args:
        losses: As in `named_losses`.
        names: As in `named_losses`.

    Returns:
        Name to scalar tensor, without the losses that no gradient leaves.
    """
    named = named_losses(losses, names)
    return {loss.name: loss.value for loss in named if loss.value is not None and loss.value.requires_grad}


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters of a model that ask for a gradient, by name, tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
