"""Normalizers: pure functions of target and mask that return what divides a sum of losses.

They never need an output, so that denominators can be totalled over micro-batches and ranks before any
forward pass. Elements are counted in int64 and the count is returned as float32, which is exact up to 2^24
(sixteen masks of 1024 x 1024 pixels) and right to 6e-8 beyond.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol, overload

import torch
from torch import Tensor

__all__ = ["count", "elements", "positive", "labelled", "mined", "one"]


class Normalizer(Protocol):
    """What divides a sum of losses, from target and mask alone."""

    def __call__(self, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the denominator, 0-d."""


def count(target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Number of True elements of the mask; without a mask, number of elements of the target.

    Args:
        target: Any tensor.
        mask: What counts, any shape and dtype (positive counts).

    Returns:
        The count, 0-d, float32.
    """
    if mask is None:
        return torch.full((), target.numel(), dtype=torch.float32, device=target.device)
    return torch.count_nonzero(_as_mask(mask)).float()


def elements(target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Number of elements of the target that the mask keeps, all channels counted.

    Differs from `count` where the mask lacks the target's dimension 1 and so holds for all its channels.

    Args:
        target: (N, C, ...) or any shape.
        mask: What counts, of the target's shape or that without dimension 1, any dtype (positive counts).

    Returns:
        The count, 0-d, float32.
    """
    if mask is None:
        return count(target)
    channels = target.shape[1] if mask.ndim < target.ndim else 1
    return (torch.count_nonzero(_as_mask(mask)) * channels).float()


def positive(target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Number of masked elements whose target is not 0 or less, as `losses.relative_smooth_l1` keeps them.

    Args:
        target: Any shape and real dtype.
        mask: What counts, of the target's shape or that without dimension 1, any dtype (positive counts).

    Returns:
        The count, 0-d, float32.
    """
    keep = ~(target <= 0)
    if mask is not None:
        spread = _as_mask(mask)
        keep = keep & (spread if spread.ndim == target.ndim else spread.unsqueeze(1))
    return torch.count_nonzero(keep).float()


@overload
def labelled(target: None = None, mask: None = None, *, ignore_index: int = ...) -> Normalizer: ...
@overload
def labelled(target: Tensor, mask: Tensor | None = None, *, ignore_index: int = ...) -> Tensor: ...
def labelled(
    target: Tensor | None = None, mask: Tensor | None = None, *, ignore_index: int = -100
) -> Tensor | Normalizer:
    """Number of masked labels other than ``ignore_index``.

    Args:
        target: Labels, (N, ...), integer; without it, the normalizer with this option is returned.
        mask: What counts, of the labels' shape, any dtype (positive counts).
        ignore_index: Label that does not count.

    Returns:
        The count, 0-d, float32; or a normalizer.
    """
    if target is None:
        return partial(labelled, ignore_index=ignore_index)
    keep = target != ignore_index
    return torch.count_nonzero(keep if mask is None else keep & _as_mask(mask)).float()


@overload
def mined(
    target: None = None,
    mask: None = None,
    *,
    ratio: float = ...,
    num_fallback: int = ...,
    per_image: bool = ...,
) -> Normalizer: ...
@overload
def mined(
    target: Tensor,
    mask: Tensor | None = None,
    *,
    ratio: float = ...,
    num_fallback: int = ...,
    per_image: bool = ...,
) -> Tensor: ...
def mined(
    target: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    ratio: float = 3.0,
    num_fallback: int = 100,
    per_image: bool = False,
) -> Tensor | Normalizer:
    """Number of elements that `losses.hard_negative_cross_entropy` keeps: all positives and k negatives.

    ``k = min(num_negatives, floor(ratio * num_positives))``, or ``min(num_negatives, num_fallback)`` without
    a positive.

    Args:
        target: Labels, (N, ...), bool or integer, positive or 0; without it, the normalizer with these
            options is returned, as in ``Term(..., normalizers.mined(ratio=3))``.
        mask: What counts, of the labels' shape, any dtype (positive counts).
        ratio: Negatives per positive.
        num_fallback: Number of negatives where there is no positive.
        per_image: Count within each image, not over the whole batch.

    Returns:
        The count, 0-d, float32; or a normalizer.
    """
    if target is None:
        return partial(mined, ratio=ratio, num_fallback=num_fallback, per_image=per_image)
    is_positive = _as_mask(target)
    valid = torch.ones_like(is_positive) if mask is None else _as_mask(mask)
    groups = (len(target) if per_image else 1, target.numel() // (max(len(target), 1) if per_image else 1))
    num_positives = torch.count_nonzero((valid & is_positive).reshape(groups), dim=1)
    num_negatives = torch.count_nonzero((valid & ~is_positive).reshape(groups), dim=1)
    wanted = (num_positives.double() * ratio).long()
    kept = torch.where(num_positives > 0, wanted, num_fallback).minimum(num_negatives)
    return (num_positives + kept).sum().float()


def one(target: Tensor, mask: Tensor | None = None) -> Tensor:
    """The constant 1: the sum itself is the value.

    Args:
        target: Any tensor.
        mask: Not looked at.

    Returns:
        1, 0-d, float32.
    """
    return torch.ones((), dtype=torch.float32, device=target.device)


def _as_mask(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask > 0
