"""Counts of the corner detectors: peaks of heat maps, objects, and the chunks of the authors' training."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise.normalizers.counts import one
from headwise.normalizers.masks import as_mask


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
        spread = as_mask(mask)
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
    return torch.count_nonzero(as_mask(mask)).to(dtype) + 1e-4


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
    keep = torch.ones_like(index, dtype=torch.bool) if objects is None else as_mask(objects)
    places = torch.where(keep, index.long(), 0).unsqueeze(1).expand(-1, target.shape[1], -1)
    values = target.flatten(2).gather(2, places)
    highest = (values == values.amax(1, keepdim=True)) & (values > 0) & keep.unsqueeze(1)
    # Compiled loops over masks of one byte are half as fast; in eager mode it is the bytes that cost.
    marks = torch.bfloat16 if torch.compiler.is_compiling() else torch.uint8
    blank = torch.zeros_like(target, dtype=marks).flatten(2)
    return blank.scatter_reduce(2, places, highest.to(marks), "amax").reshape(target.shape) > 0
