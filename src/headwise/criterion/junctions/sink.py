"""Sinks: a junction computes its readers' gradients itself, each straight into its place in the summed gradient.

A reader's gradient as a tensor of its own costs as much memory as what the reader read, and the sum of all readers
costs it once more. A loss with a closed form can instead leave with the junction the function that writes its gradient.
Only where nobody can tell: a view that a loss of this library alone has seen, in a plain backward pass without books.
There, sums are formed in the same order as anywhere else, hence are equal to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from headwise.criterion.binding.layout import Edge, Group, Layout

Write = Callable[[Tensor, bool], None]


class Sink:
    """Holds what one reading leaves behind, apart for every backward pass: several may be under way or have failed."""

    def __init__(self) -> None:
        self._writes: dict[int, list[Write]] = {}

    def offer(self, write: Write) -> bool:
        """Takes a gradient.

        Args:
            write: ``write(into, add)`` writes it into a tensor of the reading's shape, or adds it to what is there.

        Returns:
            Whether it was taken.
        """
        backward_pass = torch._C._current_graph_task_id()
        if backward_pass < 0:
            return False
        self._writes.setdefault(backward_pass, []).append(write)
        return True

    def take(self) -> list[Write]:
        """What was left behind in this backward pass."""
        return self._writes.pop(torch._C._current_graph_task_id(), [])


class Sinks:
    """The sinks of all readings of one output.

    Args:
        layout: Who reads what.
        root: The output.
    """

    def __init__(self, layout: Layout, root: Tensor) -> None:
        self.of_edge = [Sink() for _ in layout.edges]
        self._layout = layout
        last = root.dim() == 4 and root.is_contiguous(memory_format=torch.channels_last) and not root.is_contiguous()
        memory_format = torch.channels_last if last else torch.contiguous_format
        self._empty = partial(
            torch.empty, root.shape, dtype=root.dtype, device=root.device, memory_format=memory_format
        )

    @staticmethod
    def fit(layout: Layout, roots: Sequence[Tensor]) -> bool:
        """Whether gradients may be written in place: one output, read in slices without overlap, nothing batched.

        Args:
            layout: Who reads what.
            roots: The outputs.

        Returns:
            Whether `Sinks` can serve them.
        """
        if len(roots) != 1 or type(roots[0]) is not Tensor or torch._C._are_functorch_transforms_active():
            return False
        groups = layout.groups[0]
        apart = all(a.dim == b.dim and a.stop <= b.start for a, b in pairwise(groups))
        return apart and roots[0].dim() > 1 and torch.is_grad_enabled() and roots[0].requires_grad

    def write(self, grads: Sequence[Tensor | None]) -> Tensor | None:
        """The summed gradient of the output.

        Args:
            grads: What came as a tensor, per reading.

        Returns:
            The sum, in memory of its own; None if no reading left anything behind.
        """
        writes = [sink.take() for sink in self.of_edge]
        if not any(writes):
            return None
        layout, total = self._layout, self._empty()
        if not layout.tiles[0]:
            total.zero_()
        for group in layout.groups[0]:
            add = not layout.tiles[0]
            for number in group.edges:
                into = view(total, layout.edges[number])
                for write in _one([*_copies(grads[number]), *writes[number]], into):
                    write(into, add)
                    add = True
            if not add:
                _slice(total, group).zero_()
        return total


def view(root: Tensor, edge: Edge) -> Tensor:
    """What one edge reads of its output."""
    if edge.whole and edge.keep:
        return root.view_as(root)
    part = root.narrow(edge.dim, edge.start, edge.stop - edge.start)
    return part if edge.keep else part.squeeze(edge.dim)


def _slice(total: Tensor, group: Group) -> Tensor:
    return total.narrow(group.dim, group.start, group.stop - group.start)


def _one(writes: list[Write], like: Tensor) -> list[Write]:
    """Several parts of one reading's gradient (a gradient penalty makes them) are added up first, as autograd does."""
    if len(writes) < 2:
        return writes
    part = torch.empty_like(like)
    for number, write in enumerate(writes):
        write(part, number > 0)
    return _copies(part)


def _copies(grad: Tensor | None) -> list[Write]:
    """A gradient that came as a tensor, as a function that writes it."""
    if grad is None:
        return []

    def write(into: Tensor, add: bool) -> None:
        if add:
            into.add_(grad)
        else:
            into.copy_(grad)

    return [write]
