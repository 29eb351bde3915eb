"""Corner pooling: running maxima along rows and columns, and center pooling, their maxima over whole lines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

HEIGHT, WIDTH = 2, 3  # dimensions of (N, C, H, W)
HALVES = (torch.float16, torch.bfloat16)


def pool_top(features: Tensor) -> Tensor:
    """Give each position the maximum of itself and of everything below it in its column.

    The gradient of a maximum goes to where the maximum was taken: among equal values, to the nearest.

    Args:
        features: (N, C, H, W), any floating dtype.

    Returns:
        (N, C, H, W), the same dtype.

    Reference:
        Law and Deng, CornerNet, ECCV 2018, section 3.3, eq. 6-7; princeton-vl/CornerNet-Lite at 6a54505d,
        core/models/py_utils/_cpools/src/top_pool.cpp.

    Differs:
        Among equal values the authors' gradient goes to the farthest. After a ReLU, where only zeros are
        equal, both are the same.
    """
    return _running_maximum(features, HEIGHT, backwards=True)


def pool_bottom(features: Tensor) -> Tensor:
    """Give each position the maximum of itself and of everything above it in its column.

    Args:
        features: (N, C, H, W), any floating dtype.

    Returns:
        (N, C, H, W), the same dtype. Gradients as in ``pool_top``.

    Reference:
        As ``pool_top``; bottom_pool.cpp.
    """
    return _running_maximum(features, HEIGHT, backwards=False)


def pool_left(features: Tensor) -> Tensor:
    """Give each position the maximum of itself and of everything to its right.

    Args:
        features: (N, C, H, W), any floating dtype.

    Returns:
        (N, C, H, W), the same dtype. Gradients as in ``pool_top``.

    Reference:
        As ``pool_top``; left_pool.cpp.
    """
    return _running_maximum(features, WIDTH, backwards=True)


def pool_right(features: Tensor) -> Tensor:
    """Give each position the maximum of itself and of everything to its left.

    Args:
        features: (N, C, H, W), any floating dtype.

    Returns:
        (N, C, H, W), the same dtype. Gradients as in ``pool_top``.

    Reference:
        As ``pool_top``; right_pool.cpp.
    """
    return _running_maximum(features, WIDTH, backwards=False)


def pool_column(features: Tensor) -> Tensor:
    """Give the maximum of each column: ``pool_bottom(pool_top(features))``, kept in one row.

    Args:
        features: (N, C, H, W), any floating dtype.

    Returns:
        (N, C, 1, W), to be broadcast. Equal maxima share the gradient evenly.

    Reference:
        Duan et al., CenterNet: keypoint triplets for object detection, ICCV 2019, section 3.3;
        Duankaiwen/CenterNet at 3ad3a106, models/CenterNet-104.py (``pool_cross``).
    """
    return features.amax(HEIGHT, keepdim=True)


def pool_row(features: Tensor) -> Tensor:
    """Give the maximum of each row: ``pool_right(pool_left(features))``, kept in one column.

    Args:
        features: (N, C, H, W), any floating dtype.

    Returns:
        (N, C, H, 1), to be broadcast. Equal maxima share the gradient evenly.

    Reference:
        As ``pool_column``.
    """
    return features.amax(WIDTH, keepdim=True)


def _running_maximum(features: Tensor, dim: int, *, backwards: bool) -> Tensor:
    # Line by line is 2 to 10 times faster on a CPU, and keeps channels last, where a line is contiguous. A compiler
    # would unroll the lines, and a GPU launch a kernel for each.
    if features.device.type == "cpu" and features.stride(dim) > 1 and not torch.compiler.is_compiling():
        by_line: Tensor = _LineByLine.apply(features, dim, backwards)
        return by_line
    wide = features.float() if features.dtype in HALVES else features  # the sums of gradients in its backward pass
    maxima = wide.flip(dim).cummax(dim).values.flip(dim) if backwards else wide.cummax(dim).values
    return maxima.to(features.dtype)


class _LineByLine(torch.autograd.Function):
    """The running maximum, one line at a time; it keeps one byte per element where cummax keeps eight."""

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor, dim: int, backwards: bool) -> Tensor:
        maxima = features.clone(memory_format=torch.preserve_format)
        lines = _in_order(maxima, dim, backwards)
        for line, before in zip(lines[1:], lines, strict=False):
            line.clamp_min_(before)
        return maxima

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, bool], output: Tensor) -> None:
        features, ctx.dim, ctx.backwards = inputs
        ctx.save_for_backward(features == output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (taken,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _scatter(gradients[0], taken, ctx.dim, ctx.backwards), None, None
        return _carry(gradients[0], taken, ctx.dim, ctx.backwards), None, None


def _in_order(values: Tensor, dim: int, backwards: bool) -> tuple[Tensor, ...]:
    lines = values.unbind(dim)
    return lines[::-1] if backwards else lines


def _carry(gradient: Tensor, taken: Tensor, dim: int, backwards: bool) -> Tensor:
    """Walk back from the last line, carrying the gradient to the line where the maximum was taken."""
    wide = torch.float32 if gradient.dtype in HALVES else gradient.dtype
    sums = gradient.to(wide, copy=True)
    passing = _in_order((~taken).to(wide), dim, not backwards)
    lines = _in_order(sums, dim, not backwards)
    for line, after, passes in zip(lines[1:], lines, passing, strict=False):
        line.addcmul_(after, passes)
    return sums.mul_(taken).to(gradient.dtype)


def _scatter(gradient: Tensor, taken: Tensor, dim: int, backwards: bool) -> Tensor:
    """Do what ``_carry`` does by operations that can be differentiated again."""
    shape = [1] * gradient.dim()
    shape[dim] = -1
    places = torch.arange(gradient.shape[dim], device=gradient.device).view(shape)
    if backwards:
        last = gradient.shape[dim] - 1
        index = last - torch.where(taken, last - places, 0).flip(dim).cummax(dim).values.flip(dim)
    else:
        index = torch.where(taken, places, 0).cummax(dim).values
    return torch.zeros_like(gradient).scatter_add(dim, index, gradient)
