"""What a backward pass brought to losses that were booked in the middle of a network, and its columns in the books."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headwise.criterion.junctions.stats import book_dtype, square

BOOKED = ("value", "weight", "factor", "factored", "square", "bad", "calls")
"""Columns of such a loss."""


@dataclass
class Injection:
    """One loss in one backward pass.

    Args:
        name: The name under which it is booked; several of one name are one term.
        value: The loss.
        weight: What it was multiplied by where it was booked.
        factor: What the loop multiplied it by besides.
        square: Squared norm of its gradient, factors included, at what it was booked at: known later in the pass where
            the loss is a function of that, and None if nobody knows.
    """

    name: str
    value: Tensor
    weight: float | Tensor
    factor: Tensor
    square: Tensor | None = None

    def sent(self, grad: Tensor | None) -> None:
        """Takes down what it sends to what it was booked at.

        Args:
            grad: Its gradient; None where it has none.
        """
        with torch.no_grad():
            self.square = self.factor.new_zeros(()) if grad is None else square(grad.detach())


LISTENERS: list[Callable[[Injection], None]] = []
"""Ledgers of code that is not ours, in the backward pass that they take down."""


def by_name(injections: Sequence[Injection]) -> dict[str, Tensor]:
    """The columns of a pass, by the names of the losses; see `columns_of`."""
    found: dict[str, list[Injection]] = {}
    for each in injections:
        found.setdefault(each.name, []).append(each)
    return {name: columns_of(same) for name, same in found.items()}


def columns_of(same: Sequence[Injection]) -> Tensor:
    """The columns of a pass through losses of one name, as `BOOKED` lists them.

    ``value`` is their sum, and ``weight`` what that was multiplied by: the weight that all have, or else the weighted
    sum over the sum.

    Args:
        same: The losses.

    Returns:
        (7,).
    """
    device = same[0].factor.device
    like = torch.zeros((), dtype=book_dtype(device), device=device)
    value, weight, factor = (_column(same, name, like) for name in ("value", "weight", "factor"))
    squares = [_number(each.square, like) for each in same if each.square is not None]
    total, weighted = value.sum(), torch.where(weight == 0, 0.0, weight * value)
    other = torch.where(total == 0, weight.mean(), weighted.sum() / torch.where(total == 0, 1.0, total))
    one = torch.where((weight == weight[0]).all(), weight[0], other)
    finite = torch.isfinite(torch.stack([*squares, *value.unbind()])).all()
    square = torch.stack(squares).sum() if len(squares) == len(same) else like + torch.nan
    columns = [total, one, one * factor.mean(), (factor * weighted).sum(), square, ~finite, like + 1]
    return torch.stack([each.to(like) for each in columns])


def _column(same: Sequence[Injection], name: str, like: Tensor) -> Tensor:
    return torch.stack([_number(getattr(each, name), like) for each in same])


def _number(number: Any, like: Tensor) -> Tensor:
    if isinstance(number, Tensor):
        return number.detach().to(like).reshape(())
    return like.new_full((), float(number))


def merged(passes: Sequence[Tensor]) -> Tensor:
    """Several passes over one call: gradients add up, so that norms grow with the sum of factors.

    Args:
        passes: The columns of each.

    Returns:
        (7,).
    """
    every = torch.stack(list(passes))
    total = every.sum(0)
    place = {name: number for number, name in enumerate(BOOKED)}
    factor, squared = total[place["factor"]], every[:, place["factor"]].square().sum()
    total[place["square"]] *= torch.where(squared > 0, factor.square() / torch.where(squared > 0, squared, 1.0), 1.0)
    for name in ("value", "weight", "calls"):
        total[place[name]] = every[0, place[name]]
    return total
