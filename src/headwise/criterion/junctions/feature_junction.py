"""A junction inside a network, at a feature map that several heads share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from headwise.criterion.junctions.stats import book_dtype, inner, square
from headwise.graph import is_batched
from headwise.structure import describe


class _Share(torch.autograd.Function):
    """``forward(slot, num, feature)`` returns `num` views; its backward adds up what they are sent, in their order.

    What is booked is the gradient of a small leaf (the slot): the node has no side effect, so that it works inside
    compiled graphs, checkpoints and transforms. Columns: a square per view, a product per pair.
    """

    @staticmethod
    def forward(slot: Tensor | None, num: int, feature: Tensor) -> tuple[Tensor, ...]:
        return tuple([feature.view_as(feature) for _ in range(num)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        slot, _, feature = inputs
        ctx.slot_dtype = None if slot is None else slot.dtype
        ctx.headwise_routes = tuple((number, int(slot is not None), None, None, None) for number in range(len(output)))
        ctx.device = feature.device

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        booked = None
        several = [grad for grad in grads if grad is not None]
        if ctx.slot_dtype is not None and ctx.needs_input_grad[0] and not is_batched(*several):
            with torch.no_grad():
                booked = _columns([None if grad is None else grad.detach() for grad in grads], ctx.device)
                booked = booked.to(ctx.slot_dtype)
        total: Tensor | None = None
        for grad in several:
            total = grad if total is None else total + grad
        return booked, None, total


class _ForwardModeShare(_Share):
    """`_Share` with a forward mode, which Dynamo cannot trace."""

    @staticmethod
    def jvp(ctx: Any, _slot: None, num: int, tangent: Tensor) -> tuple[Tensor, ...]:
        return tuple([tangent.view_as(tangent) for _ in ctx.headwise_routes])


def _columns(grads: Sequence[Tensor | None], device: torch.device) -> Tensor:
    zero = torch.zeros((), dtype=book_dtype(device), device=device)
    found = [zero if grad is None else square(grad) for grad in grads]
    products = [
        zero if left is None or right is None else inner(left, right).to(zero) for left, right in combinations(grads, 2)
    ]
    return torch.stack([*found, *products])


class Junction(nn.Module):
    """Hands one feature map to several heads and books what each sends back.

    Without an open `Ledger` it only passes the feature on; the gradients are the same to the bit either way. It keeps
    no parameter, and works inside `torch.compile`, activation checkpointing, autocast and DDP::

        self.junction = hw.Junction("trunk", ["region", "geometry"])
        ...
        region, geometry = self.junction(features)

    Args:
        name: What the books call the feature.
        readers: The heads that read it, in the order of the returned views.

    Raises:
        ValueError: There are fewer than one reader, or two of one name.
    """

    def __init__(self, name: str, readers: Sequence[str]) -> None:
        super().__init__()
        found, readers = readers, tuple(readers)
        if not readers or len(set(readers)) != len(readers) or isinstance(found, str):
            raise ValueError(f"junction {name!r}: readers are a list of distinct names, at least one; found {found!r}")
        self.name, self.readers = name, readers
        self.slot: Tensor | None = None
        self._num_ledgers = 0
        self._last: tuple[object, Tensor | None] = (None, None)

    def forward(self, feature: Tensor) -> tuple[Tensor, ...]:
        """One view of the feature a reader, in their order.

        Args:
            feature: The shared feature, any shape.

        Returns:
            The views.

        Raises:
            ValueError: It is no tensor.
        """
        if not isinstance(feature, Tensor):
            raise ValueError(
                f"junction {self.name!r}: one feature, a tensor; found {describe(feature)}. Give each tensor of "
                "several a Junction of its own"
            )
        if self.slot is not None and self.slot.device != feature.device:
            self._make_slot(feature.device)
        plain = torch.compiler.is_compiling()
        found: tuple[Tensor, ...] = (_Share if plain else _ForwardModeShare).apply(
            self.slot, len(self.readers), feature
        )
        return found

    def open(self) -> None:
        """Begins to book, for one ledger more."""
        self._num_ledgers += 1
        if self.slot is None:
            self._make_slot(torch.device("cpu"))

    def _make_slot(self, device: torch.device) -> None:
        num = len(self.readers)
        size = num + num * (num - 1) // 2
        self.slot = torch.zeros(size, dtype=book_dtype(device), device=device, requires_grad=True)

    def take(self, under: object) -> Tensor | None:
        """What was booked in a backward pass: the same for every ledger that asks.

        Args:
            under: The pass that has just ended.

        Returns:
            The columns, or None if the pass did not come by.
        """
        if self._last[0] is not under and self.slot is not None:
            self._last, self.slot.grad = (under, self.slot.grad), None
        return self._last[1]

    def close(self) -> None:
        """Ends the booking for one ledger."""
        self._num_ledgers -= 1
        if self._num_ledgers <= 0:
            self.slot, self._num_ledgers, self._last = None, 0, (None, None)

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle of a network has closed books."""
        return {**self.__dict__, "slot": None, "_num_ledgers": 0, "_last": (None, None)}
