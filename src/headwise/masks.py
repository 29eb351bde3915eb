"""What losses and their normalizers ask alike: which elements count, and which are peaks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from headwise.whole import is_whole

# Torch tells on a CPU whether two of these are equal, not which is larger; 16-bit label maps are read as the first.
_UNORDERED = (torch.uint16, torch.uint32, torch.uint64)


def ordered(values: Tensor) -> Tensor:
    """The same numbers in a dtype that torch can order."""
    return values.long() if values.dtype in _UNORDERED else values


def as_mask(mask: Tensor) -> Tensor:
    """A mask of any dtype as bool: True where it is positive."""
    if mask.dtype == torch.bool:
        return mask
    return mask != 0 if mask.dtype in _UNORDERED else mask > 0


def not_below(values: Tensor) -> Tensor:
    """Where a value of any real dtype is not 0 or less, bool: NaN is not."""
    return ~(values <= 0) if values.is_floating_point() else as_mask(values)


def other_than(label: Tensor, number: int) -> Tensor:
    """Where an integer or bool label is not a number, bool; also of a dtype that cannot hold it: uint8, -100 and 156.

    Torch casts the number to the labels' dtype before it compares, so that -100 would be 156.
    """
    if not is_whole(number):
        raise ValueError(
            f"ignore_index is one whole number, found {number!r}. Leave several labels out with a mask, such as "
            "~torch.isin(label, labels)."
        )
    if label.dtype == torch.bool or label.is_floating_point():
        return label != number
    bounds = torch.iinfo(label.dtype)
    return label != number if bounds.min <= number <= bounds.max else torch.ones_like(label, dtype=torch.bool)


def times(count: Tensor, ratio: float, most: Tensor) -> Tensor:
    """``min(floor(ratio * count), most)``, int64, in float64 so that no count is rounded; a ratio may be infinite.

    Args:
        count: Whole numbers, not 0 where the ratio is infinite.
        ratio: At least 0.
        most: Whole numbers.

    Returns:
        The products.
    """
    # Before it is made whole: what int64 does not hold would become negative.
    return (count.double() * ratio).minimum(most.double()).long()


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

        Where several objects share a place, an index does not tell their classes: then all channels count that have a
        peak there, no neighbor being higher. (Of a bump around another place, the neighbor nearer to it is.)

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
        same = (cell.unsqueeze(2) == cell.unsqueeze(1)) & held.unsqueeze(1)
        # Objects in one cell share their peaks: the first of them stands for these.
        again, shared = same.tril(-1).any(2), same.sum(2) > 1
        place = cell.unsqueeze(1).expand(-1, target.shape[1], -1)
        height = target.flatten(2).gather(2, place)
        top = (height == height.amax(1, keepdim=True)) | (shared.unsqueeze(1) & _is_peak(target, cell, height))
        low = top & (height > 0) & (height < least) & (held & ~again).unsqueeze(1)
        keep = spread_mask(target, mask)
        if keep is not None:
            low = low & keep.expand_as(target).flatten(2).gather(2, place)
        return cls(place, height, low)


def _is_peak(target: Tensor, cell: Tensor, height: Tensor) -> Tensor:
    """Whether no neighbor is higher, (N, C, K), of heat maps (N, C, H, W) at cells (N, K)."""
    num_rows, num_columns = target.shape[2:]
    step = torch.arange(-1, 2, device=cell.device)
    row = (cell.div(num_columns, rounding_mode="floor").unsqueeze(2) + step).clamp(0, num_rows - 1)
    column = ((cell % num_columns).unsqueeze(2) + step).clamp(0, num_columns - 1)
    around = (row.unsqueeze(3) * num_columns + column.unsqueeze(2)).flatten(1)  # (N, K * 9)
    heights = target.flatten(2).gather(2, around.unsqueeze(1).expand(-1, target.shape[1], -1))
    return height >= heights.reshape(*heights.shape[:2], heights.shape[2] // 9, 9).amax(3)
