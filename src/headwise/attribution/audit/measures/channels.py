"""Channels of an output."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise.attribution.tracing.channels import channel_dim_of


def channel_dim(tensor: Tensor) -> int:
    """Where the channels are: dimension 1, or of three dimensions the shorter of the last two (anchors, tokens)."""
    if tensor.ndim == 3 and tensor.shape[2] < tensor.shape[1]:
        return 2
    return channel_dim_of(tensor.shape, 1)


def channel_dims(tensor: Tensor) -> tuple[int, ...]:
    """Where channels may be: as `channel_dim` says, and of four or more dimensions last (as detectors permute them)."""
    first = channel_dim(tensor)
    return (first, tensor.ndim - 1) if tensor.ndim > 3 else (first,)


def per_channel(grad: Tensor | None, tensor: Tensor, dim: int | None = None) -> Tensor:
    """The squared norm of a gradient, per channel of its output."""
    dim = channel_dim(tensor) if dim is None else dim
    size = tensor.shape[dim] if tensor.ndim > 1 else 1
    if grad is None:
        return torch.zeros(size, dtype=torch.float64)
    squares = grad.detach().double().square()
    return (squares.movedim(dim, 0).reshape(size, -1).sum(1) if tensor.ndim > 1 else squares.sum().reshape(1)).cpu()
