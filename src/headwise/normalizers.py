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

__all__ = [
    "count",
    "elements",
    "positive",
    "labelled",
    "mined",
    "one",
    "images",
    "peaks",
    "published_peaks",
    "published_objects",
    "published_chunks",
    "weight_sum",
    "foreground",
]


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
    """The constant 1: the sum itself is the value, also of a step of many micro-batches (a constant is not totalled).

    Args:
        target: Any tensor.
        mask: Not looked at.

    Returns:
        1, 0-d, float32.
    """
    return torch.ones((), dtype=torch.float32, device=target.device)


def images(target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Number of images, those without an object included.

    Args:
        target: (N, ...).
        mask: Not looked at.

    Returns:
        N, 0-d, float32.
    """
    return torch.full((), len(target), dtype=torch.float32, device=target.device)


def peaks(
    target: Tensor,
    mask: Tensor | None = None,
    *,
    index: Tensor | None = None,
    objects: Tensor | None = None,
    tolerance: float = 0.0,
) -> Tensor:
    """Number of masked positives of heat maps, as `losses.gaussian_focal` of the same arguments finds them.

    Args:
        target: Heat maps in [0, 1], (N, C, H, W); any shape without ``index``.
        mask: What counts, of the target's shape or that without dimension 1, any dtype (positive counts).
        index: Where the objects are, (N, K), integer, ``y * W + x``.
        objects: Which of the K slots hold an object, (N, K), any dtype (positive holds); None: all.
        tolerance: How far below 1 a target is still a positive, in [0, 1).

    Returns:
        The count, 0-d, float32; 0 without an object.
    """
    keep = target >= 1 - tolerance
    if index is not None:
        keep = keep | _highest_at(target, index, objects)
    if mask is not None:
        spread = _as_mask(mask)
        keep = keep & (spread if spread.ndim == target.ndim else spread.unsqueeze(1))
    return torch.count_nonzero(keep).float()


def published_peaks(target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Number of targets that are exactly 1, masked ones included, and 1 where there is none.

    Args:
        target: Heat maps, any shape.
        mask: Not looked at: the authors count positives that they have masked.

    Returns:
        The count, 0-d, float32, at least 1.
    """
    return torch.count_nonzero(target == 1).clamp(min=1).float()


def published_objects(index: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Number of objects and 1e-4, what the authors divide the losses of offsets by.

    Args:
        index: Not looked at.
        target: Offsets, (N, K, 2).
        mask: Which of the K slots hold an object, (N, K), any dtype (positive holds).

    Returns:
        The count and 1e-4, 0-d, float32 (float64 for float64 offsets).
    """
    dtype = torch.float64 if target.dtype == torch.float64 else torch.float32
    return torch.count_nonzero(_as_mask(mask)).to(dtype) + 1e-4


def published_chunks(target: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 a micro-batch: totalled over a step, the number of its chunks.

    So the value is the mean over micro-batches and ranks of their sums, as `DataParallel` and ``.mean()`` make it; it
    depends on how a batch is split. `one` keeps the sum instead.

    Args:
        target: Any tensor.
        mask: Not looked at.

    Returns:
        1, 0-d, float32.
    """
    return one(target)


def _highest_at(target: Tensor, index: Tensor, objects: Tensor | None) -> Tensor:
    """True in the channels whose target is highest at an object's place; the losses' twin, as rooms do not mix."""
    keep = torch.ones_like(index, dtype=torch.bool) if objects is None else _as_mask(objects)
    places = torch.where(keep, index.long(), 0).unsqueeze(1).expand(-1, target.shape[1], -1)
    values = target.flatten(2).gather(2, places)
    highest = (values == values.amax(1, keepdim=True)) & (values > 0) & keep.unsqueeze(1)
    # Compiled loops over masks of one byte are half as fast; in eager mode it is the bytes that cost.
    marks = torch.bfloat16 if torch.compiler.is_compiling() else torch.uint8
    blank = torch.zeros_like(target, dtype=marks).flatten(2)
    return blank.scatter_reduce(2, places, highest.to(marks), "amax").reshape(target.shape) > 0


@overload
def weight_sum(
    target: None = None, weight: None = None, mask: Tensor | None = None, *, ignore_index: int | None = ...
) -> Normalizer: ...
@overload
def weight_sum(
    target: Tensor, weight: Tensor, mask: Tensor | None = None, *, ignore_index: int | None = ...
) -> Tensor: ...
def weight_sum(
    target: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    ignore_index: int | None = None,
) -> Tensor | Normalizer:
    """Sum of the weights of the elements that count in `losses.weighted_cross_entropy`: divides to a weighted mean.

    Args:
        target: Labels, (N, ...) or (N, 1, ...), integer or bool; without it, the normalizer with this option is
            returned.
        weight: Weights, one a label, with or without the dimension of 1.
        mask: What counts, one value a label, any dtype (positive counts).
        ignore_index: Label that does not count.

    Returns:
        The sum, 0-d, float32 (float64 for float64 weights); or a normalizer.

    Raises:
        ValueError: If there is not one weight and one mask value a label.
    """
    if target is None or weight is None:
        return partial(weight_sum, ignore_index=ignore_index)
    if weight.numel() != target.numel() or (mask is not None and mask.numel() != target.numel()):
        found = None if mask is None else tuple(mask.shape)
        raise ValueError(
            "weight_sum: one weight and one mask value a label are needed, found labels "
            f"{tuple(target.shape)}, weights {tuple(weight.shape)}, mask {found}. Nothing is broadcast."
        )
    keep = torch.ones_like(weight, dtype=torch.bool) if mask is None else _as_mask(mask).reshape(weight.shape)
    if ignore_index is not None:
        keep = keep & (target != ignore_index).reshape(weight.shape)
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return torch.where(keep, weight.to(dtype), 0.0).sum()


def foreground(*labels: Tensor | None) -> Tensor:
    """Number of positive labels of all levels together, as `losses.multibox_cross_entropy` takes them.

    Args:
        labels: The labels of each level, any shapes, integer: negative ignored, 0 background; None is passed over.

    Returns:
        The count, 0-d, float32.

    Raises:
        ValueError: There are no labels.
    """
    counts = [torch.count_nonzero(each > 0) for each in labels if each is not None]
    if not counts:
        raise ValueError("foreground: the labels of at least one level are needed, found none. Name the targets.")
    return torch.stack(counts).sum().float()


def _as_mask(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask > 0
