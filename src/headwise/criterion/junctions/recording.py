"""What a criterion asks of whoever keeps its books, and nothing more: the books themselves live in `attribution`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Size, Tensor

from headwise.criterion.binding.layout import Layout, Served


class Counted(NamedTuple):
    """What divided the sums of a call.

    Args:
        divisors: (levels of all terms,).
        levels: Per term how many of them are its own, and whether each is what all of them have together.
    """

    divisors: Tensor
    levels: tuple[tuple[int, bool], ...]

    def by_term(self) -> Tensor:
        """(T,): the count of each term."""
        parts = torch.split(self.divisors, [num for num, _ in self.levels])
        pairs = zip(parts, self.levels, strict=True)
        return torch.stack([part[0] if num == 1 or pooled else part.sum() for part, (num, pooled) in pairs])


class Record(Protocol):
    """One call of a criterion in the books: told in the forward pass what was summed, in the backward what was sent."""

    def summed(
        self,
        values: Tensor,
        weights: Sequence[float | Tensor],
        levels: Sequence[Tensor | None],
        counted: Counted,
        balance: Tensor | None = None,
    ) -> None:
        """The terms' values (T,), weights, values of the levels, what divided, and what weights were multiplied by."""

    def at_total(self, factor: Tensor) -> None:
        """The gradient with which a backward pass comes to the total."""

    def by_sample(self, ids: Any, measure: Callable[[int, int], Tensor | str]) -> None:
        """What the batch calls its samples, or None; and what gives term t's values of N samples, or says why not."""

    def watch_value(self, term: int, value: Tensor) -> None:
        """The value of one term, from which the loop may go on by itself."""

    def aggregated(self, names: Sequence[str], matrix: Tensor, answer: Tensor, weights: Tensor) -> None:
        """A Jacobian that was aggregated in place of a backward pass.

        Args:
            names: The rows.
            matrix: (rows, columns).
            answer: (columns,), what was made of it.
            weights: (rows,), what each row was multiplied by; NaN where it is no combination of rows.
        """

    def injected(self, injection: Any) -> None:
        """A backward pass came to a loss that was booked in the middle of the network."""

    def sent_alone(self, part: Served, grad: Tensor) -> None:
        """What a loss sent in a backward pass that reads one output, whole, and is its only reader."""

    def sent(
        self, part: Served, grads: Sequence[Tensor | None], sums: Sequence[Tensor | None], shapes: Sequence[Size]
    ) -> None:
        """What readers sent in a backward pass, and what was made of it for each output."""


class Bookkeeper(Protocol):
    """Keeps the books of a criterion."""

    def open(self, layout: Layout, roots: Sequence[Tensor], pooled: bool) -> Record:
        """Begins the record of one call.

        Args:
            layout: Who reads what.
            roots: The outputs.
            pooled: Whether the denominators were totaled over the step.
        """
        ...

    def mark(self) -> None:
        """A step of the optimizer is over."""
        ...


class Claimant(Protocol):
    """Is told of every call, whether books are kept or not: losses inside the network follow the loop by its total."""

    def __call__(self, total: Tensor, record: Record | None, pooled: bool) -> None:
        """A criterion was called.

        Args:
            total: What backward may be called on.
            record: Its books, if they are kept.
            pooled: Whether the denominators were totaled over the step.
        """
        ...


CLAIMANTS: list[Claimant] = []
"""Who is told; empty until a loss is booked inside of a network."""

WAITING: set[int] = set()
"""Threads in which such a loss waits for the call that it belongs to: that call is not compiled."""
