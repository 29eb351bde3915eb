"""Counts of the corner detectors: peaks of heat maps, objects, and the chunks of the authors' training."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise.declaration import declared
from headwise.masks import LowPeaks, as_mask, ordered, spread_mask

_EXACT = "as_published=False is exact"


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
    target = ordered(target)
    high, keep = target >= 1 - tolerance, spread_mask(target, mask)
    number = torch.count_nonzero(high if keep is None else high & keep)
    if index is not None:
        number = number + torch.count_nonzero(LowPeaks.of(target, index, objects, mask, 1 - tolerance).low)
    return number.float()


@declared(split_variant=f"every micro-batch counts at least one peak; {_EXACT}")
def published_peaks(target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Number of targets that are exactly 1, masked ones included, and 1 where there is none.

    Args:
        target: Heat maps, any shape.
        mask: Not looked at: the authors count positives that they have masked.

    Returns:
        The count, 0-d, float32, at least 1.
    """
    return torch.count_nonzero(target == 1).clamp(min=1).float()


@declared(split_variant=f"every micro-batch adds 1e-4 to its count; {_EXACT}")
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


@declared(split_variant=f"a sum per micro-batch, averaged over micro-batches and ranks; {_EXACT}")
def published_chunks(target: Tensor, mask: Tensor | None = None) -> int:
    """1 a micro-batch: totaled over a step, the number of its chunks.

    So the value is the mean over micro-batches and ranks of their sums, as `DataParallel` and ``.mean()`` make it; it
    depends on how a batch is split. `one` keeps the sum instead.

    Args:
        target: Not looked at.
        mask: Not looked at.

    Returns:
        1.
    """
    return 1
