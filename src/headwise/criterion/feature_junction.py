"""A junction inside a network, at a feature map that several heads share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from headwise.criterion.junction import split
from headwise.criterion.layout import Edge, Layout, make_layout
from headwise.criterion.stats import slot_dtype


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
        readers = tuple(readers)
        if not readers or len(set(readers)) != len(readers):
            raise ValueError(f"junction {name!r}: readers are distinct names, at least one; found {readers}")
        self.name, self.readers = name, readers
        self.slot: Tensor | None = None

    def layout(self, num_dims: int = 4) -> Layout:
        """The plan: every reader reads the whole feature."""
        edges = tuple([Edge(i, 0, min(1, num_dims - 1), 0, 1, True, True, self.name) for i in range(len(self.readers))])
        return make_layout(self.readers, (self.name,), edges, ((1,) * max(num_dims, 1),))

    def forward(self, feature: Tensor) -> tuple[Tensor, ...]:
        """One view of the feature a reader, in their order.

        Args:
            feature: The shared feature, any shape.

        Returns:
            The views.
        """
        if self.slot is not None and self.slot.device != feature.device:
            self.open(feature.device)
        *views, _ = split(self.layout(feature.dim()), "keep", False, self.slot, [feature])
        return tuple(views)

    def open(self, device: torch.device | None = None) -> None:
        """Begins to book: the gradient of `slot` collects the numbers until it is taken."""
        device = device or torch.device("cpu")
        self.slot = torch.zeros(num_columns_of(self), dtype=slot_dtype(device), device=device, requires_grad=True)

    def take(self) -> Tensor | None:
        """What was booked since the last call, or None if no backward pass came by."""
        if self.slot is None or self.slot.grad is None:
            return None
        taken, self.slot.grad = self.slot.grad, None
        return taken

    def close(self) -> None:
        """Ends the booking."""
        self.slot = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle of a network has closed books."""
        return {**self.__dict__, "slot": None}


def num_columns_of(junction: Junction) -> int:
    """How many numbers a junction books: norm and finiteness per reader, three per pair of readers."""
    num = len(junction.readers)
    return 2 * num + 3 * (num * (num - 1) // 2)
