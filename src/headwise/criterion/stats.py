"""What a junction books: norms, inner products and finiteness, computed on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headwise.criterion.layout import Edge, Layout


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over elements of `dtype` are kept: float64 stays, all else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def slot_dtype(device: torch.device) -> torch.dtype:
    """The books are kept in float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def num_columns(layout: Layout, channels: bool) -> int:
    """How many numbers a junction books: see `booked`."""
    per_channel = sum(edge.stop - edge.start for edge in layout.edges) if channels else 0
    return 2 * len(layout.edges) + 3 * len(layout.pairs) + per_channel


def booked(
    layout: Layout, grads: Sequence[Tensor | None], channels: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The booked numbers.

    In this order: squared norm per edge, 1 per edge that is not finite, per pair the inner product and both squared
    norms over the common channels, and on request the squared norms of every edge's channels.
    """
    zero = torch.zeros((), dtype=dtype, device=device)
    wide = [None if g is None else with_channel(g.detach(), e) for g, e in zip(grads, layout.edges, strict=True)]
    squares = [zero if g is None else square_norm(g).to(dtype) for g in wide]
    infinite = [(~torch.isfinite(square)).to(dtype) for square in squares]
    columns = [*squares, *infinite]
    for pair in layout.pairs:
        columns += _pair_stats(layout, pair.left, pair.right, wide, squares, pair.start, pair.stop)
    stacked = torch.stack([column.to(dtype) for column in columns])
    if not channels:
        return stacked
    rows = [
        torch.zeros(e.stop - e.start, dtype=dtype, device=device) if g is None else _channel_squares(g, e).to(dtype)
        for g, e in zip(wide, layout.edges, strict=True)
    ]
    return torch.cat([stacked, *rows])


def _pair_stats(
    layout: Layout, i: int, j: int, grads: list[Tensor | None], squares: list[Tensor], start: int, stop: int
) -> list[Tensor]:
    left, right = grads[i], grads[j]
    if left is None or right is None:
        return [torch.zeros_like(squares[i]), squares[i] * 0, squares[j] * 0]
    common, norms = [], []
    for number, grad in ((i, left), (j, right)):
        edge = layout.edges[number]
        if (edge.start, edge.stop) == (start, stop):
            common.append(grad)
            norms.append(squares[number])
        else:
            common.append(grad.narrow(edge.dim, start - edge.start, stop - start))
            norms.append(square_norm(common[-1]))
    return [inner(*common), *norms]


def square_norm(grad: Tensor) -> Tensor:
    """Sum of squares, accumulated in float32 or wider; not finite where an element is not (or its square overflows)."""
    norm: Tensor = torch.linalg.vector_norm(grad, dtype=sum_dtype(grad.dtype))
    return norm.square()


def inner(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of two tensors of one shape, without a temporary where both are contiguous."""
    dtype = sum_dtype(left.dtype)
    if left.dtype == dtype and right.dtype == dtype and left.is_contiguous() and right.is_contiguous():
        product: Tensor = torch.dot(left.view(-1), right.view(-1))
        return product
    return (left.to(dtype) * right.to(dtype)).sum()


def with_channel(grad: Tensor, edge: Edge) -> Tensor:
    """The gradient with the sliced dimension back in place."""
    if edge.keep:
        return grad
    return grad.unsqueeze(edge.dim if edge.dim >= 0 else grad.dim() + 1 + edge.dim)


def _channel_squares(grad: Tensor, edge: Edge) -> Tensor:
    if grad.dim() < 2:
        return square_norm(grad).expand(edge.stop - edge.start)
    dim = edge.dim % grad.dim()
    others = [d for d in range(grad.dim()) if d != dim]
    norms: Tensor = torch.linalg.vector_norm(grad, dim=others, dtype=sum_dtype(grad.dtype))
    return norms.square()
