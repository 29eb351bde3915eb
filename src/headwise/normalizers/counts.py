"""Counts of elements, labels, images and weights."""

from __future__ import annotations

from functools import partial
from typing import Protocol, overload

import torch
from torch import Tensor

from headwise.declaration import declared
from headwise.masks import as_mask, not_below, other_than, spread_mask, times
from headwise.whole import check_whole


class Normalizer(Protocol):
    """What divides a sum of losses, from target and mask alone."""

    def __call__(self, target: Tensor, mask: Tensor | None = None) -> Tensor | int:
        """Returns the denominator, 0-d; a Python number where no element need be looked at."""


def count(target: Tensor, mask: Tensor | None = None) -> Tensor | int:
    """Number of True elements of the mask; without a mask, number of elements of the target.

    Args:
        target: Any tensor.
        mask: What counts, any shape and dtype (positive counts).

    Returns:
        The count, 0-d, float32; a Python number without a mask.
    """
    return target.numel() if mask is None else torch.count_nonzero(as_mask(mask)).float()


def elements(target: Tensor, mask: Tensor | None = None) -> Tensor | int:
    """Number of elements of the target that the mask keeps, all channels counted.

    Differs from `count` where the mask is smaller than the target: each of its elements then stands for as many of the
    target, so that a mask that keeps everything counts what no mask counts.

    Args:
        target: (N, C, ...) or any shape.
        mask: What counts, of the target's shape or that without some dimensions, any dtype (positive counts).

    Returns:
        The count, 0-d, float32; a Python number without a mask.

    Raises:
        ValueError: If the target does not have a whole number of elements for each of the mask.
    """
    if mask is None:
        return target.numel()
    per = max(mask.numel(), 1)
    number = target.numel() // per
    if number * per != target.numel():
        raise ValueError(
            f"elements: a mask has the target's shape {tuple(target.shape)}, or that without dimension 1, found "
            f"{tuple(mask.shape)}. Resize or expand the mask."
        )
    kept = torch.count_nonzero(as_mask(mask))
    return (kept if number == 1 else kept * number).float()


def boxes(target: Tensor, mask: Tensor | None = None) -> Tensor | int:
    """Number of boxes that the mask keeps, whose numbers stand last in the target.

    Args:
        target: (N, A, 4).
        mask: What counts, (N, A), any dtype (positive counts, so labels will do); None counts every box.

    Returns:
        The count, 0-d, float32; a Python number without a mask.
    """
    return target[..., 0].numel() if mask is None else count(target, mask)


def objects(index: Tensor, target: Tensor | None = None, mask: Tensor | None = None) -> Tensor | int:
    """Number of objects that are read at an index, as `losses.gathered_smooth_l1` does.

    Args:
        index: Where the objects are, (N, K).
        target: Not looked at.
        mask: Which of the K slots hold an object, (N, K), any dtype (positive holds); None: all.

    Returns:
        The count, 0-d, float32; a Python number without a mask.
    """
    return count(index, mask)


def positive(target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Number of masked elements whose target is not 0 or less, as `losses.relative_smooth_l1` keeps them.

    Args:
        target: Any shape and real dtype.
        mask: What counts, of the target's shape or that without dimension 1, any dtype (positive counts).

    Returns:
        The count, 0-d, float32.
    """
    above, keep = not_below(target), spread_mask(target, mask)
    return torch.count_nonzero(above if keep is None else above & keep).float()


@overload
def labeled(target: None = None, mask: None = None, *, ignore_index: int | None = ...) -> Normalizer: ...
@overload
def labeled(target: Tensor, mask: Tensor | None = None, *, ignore_index: int | None = ...) -> Tensor | int: ...
def labeled(
    target: Tensor | None = None, mask: Tensor | None = None, *, ignore_index: int | None = -100
) -> Tensor | int | Normalizer:
    """Number of masked labels other than ``ignore_index``.

    Args:
        target: Labels, (N, ...), integer; without it, the normalizer with this option is returned.
        mask: What counts, of the labels' shape, any dtype (positive counts).
        ignore_index: Label that does not count; None: all count.

    Returns:
        The count, 0-d, float32, or a Python number where all labels count; or a normalizer.
    """
    if target is None:
        return partial(labeled, ignore_index=ignore_index)
    if ignore_index is None:
        return count(target, mask)
    keep = other_than(target, ignore_index)
    return torch.count_nonzero(keep if mask is None else keep & as_mask(mask)).float()


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

    Raises:
        ValueError: ``ratio`` or ``num_fallback`` is negative or no number, or ``num_fallback`` not whole.
    """
    check_mining("mined", ratio, num_fallback)
    if target is None:
        return partial(mined, ratio=ratio, num_fallback=num_fallback, per_image=per_image)
    is_positive = as_mask(target)
    valid = torch.ones_like(is_positive) if mask is None else as_mask(mask)
    groups = (len(target) if per_image else 1, target.numel() // (max(len(target), 1) if per_image else 1))
    num_positives = torch.count_nonzero((valid & is_positive).reshape(groups), dim=1)
    num_negatives = torch.count_nonzero((valid & ~is_positive).reshape(groups), dim=1)
    wanted = times(num_positives, ratio, num_negatives)
    kept = torch.where(num_positives > 0, wanted, num_negatives.clamp(max=num_fallback))
    return (num_positives + kept).sum().float()


def check_mining(what: str, ratio: float, num_fallback: int) -> None:
    """Refuses options by which no negatives can be chosen.

    Args:
        what: The function, for the error.
        ratio: Negatives per positive.
        num_fallback: Number of negatives without a positive.

    Raises:
        ValueError: One is negative or no number, or `num_fallback` is not whole.
    """
    check_whole(what, 0, num_fallback=num_fallback)
    if not (hasattr(ratio, "__float__") and ratio >= 0):
        raise ValueError(f"{what}: ratio must be a number of at least 0, found {ratio!r}. The published value is 3.")


@declared(constant=True)
def one(target: Tensor | None, mask: Tensor | None = None) -> int:
    """The constant 1: the sum itself is the value, also of a step of many micro-batches (a constant is not totaled).

    Args:
        target: Not looked at.
        mask: Not looked at.

    Returns:
        1.
    """
    return 1


def images(target: Tensor, mask: Tensor | None = None) -> int:
    """Number of images, those without an object included.

    Args:
        target: (N, ...).
        mask: Not looked at.

    Returns:
        N.
    """
    return target.shape[0]


@overload
def weight_sum(
    label: None = None, weight: None = None, mask: Tensor | None = None, *, ignore_index: int | None = ...
) -> Normalizer: ...
@overload
def weight_sum(
    label: Tensor, weight: Tensor, mask: Tensor | None = None, *, ignore_index: int | None = ...
) -> Tensor: ...
def weight_sum(
    label: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    ignore_index: int | None = None,
) -> Tensor | Normalizer:
    """Sum of the weights of the elements that count in `losses.weighted_cross_entropy`: divides to a weighted mean.

    Args:
        label: Labels, (N, ...) or (N, 1, ...), integer or bool; without it, the normalizer with this option is
            returned.
        weight: Weights, one a label, with or without the dimension of 1.
        mask: What counts, one value a label, any dtype (positive counts).
        ignore_index: Label that does not count.

    Returns:
        The sum, 0-d, float32 (float64 for float64 weights); or a normalizer.

    Raises:
        ValueError: If there is not one weight and one mask value a label.
    """
    if label is None or weight is None:
        return partial(weight_sum, ignore_index=ignore_index)
    if weight.numel() != label.numel() or (mask is not None and mask.numel() != label.numel()):
        found = None if mask is None else tuple(mask.shape)
        raise ValueError(
            "weight_sum: one weight and one mask value a label are needed, found labels "
            f"{tuple(label.shape)}, weights {tuple(weight.shape)}, mask {found}. Nothing is broadcast."
        )
    keep = torch.ones_like(weight, dtype=torch.bool) if mask is None else as_mask(mask).reshape(weight.shape)
    if ignore_index is not None:
        keep = keep & other_than(label, ignore_index).reshape(weight.shape)
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
    counts = [torch.count_nonzero(as_mask(each)) for each in labels if each is not None]
    if not counts:
        raise ValueError("foreground: the labels of at least one level are needed, found none. Name the targets.")
    return torch.stack(counts).sum().float()
