"""What losses and their normalizers ask alike: which elements count, and which are peaks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def as_mask(mask: Tensor) -> Tensor:
    """A mask of any dtype as bool: True where it is positive."""
    return mask if mask.dtype == torch.bool else mask > 0


def spread_mask(values: Tensor, mask: Tensor | None) -> Tensor | None:
    """A bool mask that broadcasts to ``values``: one that lacks dimension 1 holds for all channels."""
    if mask is None:
        return None
    keep = as_mask(mask)
    return keep if keep.ndim == values.ndim else keep.unsqueeze(1)


class LowPeaks(NamedTuple):
    """Peaks of heat maps that are below the height at which their value alone would tell, each once.

    Args:
        place: (N, C, K) int64, in the flattened H * W.
        target: (N, C, K), the heat map there.
        low: (N, C, K) bool, which of these are such peaks.
    """

    place: Tensor
    target: Tensor
    low: Tensor

    @classmethod
    def of(cls, target: Tensor, index: Tensor, objects: Tensor | None, mask: Tensor | None, least: float) -> LowPeaks:
        """Find the channels whose target is highest at an object's place, and yet low.

        Args:
            target: Heat maps, (N, C, H, W).
            index: Where the objects are, (N, K), integer, ``y * W + x``.
            objects: Which slots hold an object, (N, K), any dtype (positive holds); None: all.
            mask: What counts, of the target's shape or that without dimension 1, any dtype; None: all.
            least: From which height a peak is not low.

        Returns:
            The low peaks that count.
        """
        held = torch.ones_like(index, dtype=torch.bool) if objects is None else as_mask(objects)
        cell = torch.where(held, index.long(), 0)
        # Objects in one cell share their peak: the first of them stands for it.
        again = ((cell.unsqueeze(2) == cell.unsqueeze(1)) & held.unsqueeze(1)).tril(-1).any(2)
        place = cell.unsqueeze(1).expand(-1, target.shape[1], -1)
        height = target.flatten(2).gather(2, place)
        highest = (height == height.amax(1, keepdim=True)) & (height > 0)
        low = highest & (height < least) & (held & ~again).unsqueeze(1)
        keep = spread_mask(target, mask)
        if keep is not None:
            low = low & keep.expand_as(target).flatten(2).gather(2, place)
        return cls(place, height, low)
