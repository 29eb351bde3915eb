"""Local maxima of heat maps, and the best of them: on logits, so that only what is found needs a sigmoid."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headwise.whole import check_whole, is_whole

Ties = Literal["first", "all", "none"]

TILE = 8  # pixels; tiles of this side are ranked by their maxima before any pixel is looked at
MOST_TILES = 1 / 8  # share of the tiles up to which looking into some is quicker than looking at every pixel
MOST_PIXELS = 1 / 32  # the same for single pixels, whose neighbors are gathered one by one


@dataclass(frozen=True)
class Peaks:
    """The best peaks of each map, best first, all (N, K).

    Args:
        logits: Their values; -inf where an image has fewer than K peaks.
        labels: Their class.
        index: Their place y * W + x.
    """

    logits: Tensor
    labels: Tensor
    index: Tensor


def find_peaks(logits: Tensor, num_peaks: int, *, kernel_size: int = 3, as_published: bool = False) -> Peaks:
    """The ``num_peaks`` highest local maxima of each image, over all classes.

    A peak is a pixel that no pixel of its ``kernel_size`` neighborhood exceeds. Of equal neighbors the first in
    reading order is the peak, so a plateau has one and not one per pixel. Infinitely low pixels are none.

    On a CPU most pixels are never looked at twice: the maximum of a tile that exceeds all tiles around it is a peak, so
    the ``num_peaks``-th best of these bounds the values worth looking at. The peaks are the same.

    Args:
        logits: (N, C, H, W).
        num_peaks: K, cut to the number of pixels C * H * W.
        kernel_size: Side of the neighborhood in pixels, odd.
        as_published: Every pixel of a plateau is a peak, the class is the quotient in float32 (wrong for the last
            pixels of large maps), and more peaks than pixels are an error.

    Returns:
        The peaks; fewer columns than K where no image has as many.

    Raises:
        ValueError: If an option is out of range.
    """
    num_classes, height, width = logits.shape[1:]
    check_whole("find_peaks", num_peaks=num_peaks)
    check_kernel("find_peaks", kernel_size)
    if as_published and num_peaks > num_classes * height * width:
        raise ValueError(f"find_peaks: {num_peaks} peaks asked of {num_classes * height * width} pixels.")
    ties: Ties = "all" if as_published else "first"
    values, places = _rank(logits, num_peaks, kernel_size, ties)
    plane = height * width
    # True division of integers is done in float32, which the authors then truncate.
    labels = (places / plane).long() if as_published else torch.div(places, plane, rounding_mode="floor")
    return Peaks(values, labels, places % plane)


def local_maxima(maps: Tensor, kernel_size: int = 3, ties: Ties = "first") -> Tensor:
    """Where a pixel is the highest of its neighborhood.

    Args:
        maps: (..., H, W).
        kernel_size: Side of the neighborhood, odd.
        ties: What happens to equal neighbors: the first in reading order counts, all do, or none.

    Returns:
        Bool, the shape of ``maps``. Infinitely low pixels are no maxima.

    Raises:
        ValueError: If ``kernel_size`` is not odd.
    """
    check_kernel("local_maxima", kernel_size)
    height, width = maps.shape[-2:]
    reach = kernel_size // 2
    around = F.pad(maps, (reach, reach, reach, reach), value=-torch.inf)
    found = maps > -torch.inf
    for step, (down, right) in enumerate(itertools.product(range(kernel_size), repeat=2)):
        if (down, right) != (reach, reach):
            other = around[..., down : down + height, right : right + width]
            found &= maps > other if _excludes(step, kernel_size, ties) else maps >= other
    return found


def check_kernel(where: str, size: int) -> None:
    """Asks for the side of a neighborhood.

    Args:
        where: Who was called, for the message.
        size: The side.

    Raises:
        ValueError: It is no odd whole number.
    """
    if not is_whole(size, 1) or size % 2 == 0:
        raise ValueError(f"{where}: kernel_size is an odd whole number, found {size!r}.")


def _excludes(step: int, kernel_size: int, ties: Ties) -> bool:
    """Whether an equal neighbor, the ``step``-th of its neighborhood in reading order, excludes a pixel."""
    return ties == "none" or (ties == "first" and step < kernel_size**2 // 2)


def _rank(logits: Tensor, num_peaks: int, kernel_size: int, ties: Ties) -> tuple[Tensor, Tensor]:
    """Values and places in (C, H, W) of the best maxima of each image, the shorter way."""
    if logits.device.type == "cpu" and kernel_size // 2 <= TILE and logits.numel():
        floor, tiles = _promising_tiles(logits, num_peaks)
        if int(tiles.sum()) <= MOST_TILES * tiles.numel():
            candidates = _pixels(logits, logits.reshape(-1), floor, tiles)
            return _rank_candidates(logits, candidates, num_peaks, kernel_size, ties)
        if kernel_size > 1 and ties == "first":
            rising = _rising(logits.detach())
            if int(torch.count_nonzero(rising)) <= MOST_PIXELS * rising.numel():
                return _rank_candidates(logits, _places(rising), num_peaks, kernel_size, ties)
    return _rank_pixels(logits, num_peaks, kernel_size, ties)


def _rank_pixels(logits: Tensor, num_peaks: int, kernel_size: int, ties: Ties) -> tuple[Tensor, Tensor]:
    """By looking at every pixel: the host never waits."""
    kept = torch.where(local_maxima(logits, kernel_size, ties), logits, -torch.inf).flatten(1)
    best = kept.topk(min(num_peaks, kept.shape[1]))
    return best.values, best.indices


def _rising(logits: Tensor) -> Tensor:
    """Pixels above their neighbors to the left and above, as the first of a plateau is: on flat maps few are."""
    found = torch.ones_like(logits, dtype=torch.bool)
    torch.gt(logits[..., 1:], logits[..., :-1], out=found[..., 1:])
    found[..., 1:, :] &= logits[..., 1:, :] > logits[..., :-1, :]
    return found


def _places(marked: Tensor) -> Tensor:
    """Where few are marked: rows without any are passed over quickly."""
    rows = marked.flatten(0, -2)
    some = rows.view(torch.uint8).amax(1).nonzero()[:, 0]
    row, column = rows[some].nonzero().T
    places: Tensor = some[row] * rows.shape[1] + column
    return places


def _rank_candidates(
    logits: Tensor, candidates: Tensor, num_peaks: int, kernel_size: int, ties: Ties
) -> tuple[Tensor, Tensor]:
    """By looking at some pixels, places in (N, C, H, W), among which the best peaks are."""
    flat = logits.reshape(-1)
    peaks = candidates[_are_maxima(logits, flat, candidates, kernel_size, ties)]
    size = logits[0].numel()
    image = torch.div(peaks, size, rounding_mode="floor")
    counts = torch.bincount(image, minlength=len(logits))
    order = image.argsort(stable=True)
    column = torch.arange(len(peaks)) - (counts.cumsum(0) - counts)[image[order]]
    most = int(counts.max())
    values, places = logits.new_full((len(logits), most), -torch.inf), peaks.new_zeros(len(logits), most)
    values[image[order], column] = flat[peaks[order]]
    places[image[order], column] = peaks[order] % size
    best = values.topk(min(num_peaks, most))
    return best.values, places.gather(1, best.indices)


def _promising_tiles(logits: Tensor, num_peaks: int) -> tuple[Tensor, Tensor]:
    """A value (N,) that ``num_peaks`` peaks of each image reach, and the tiles (N, C, h, w) that reach it."""
    tiles = _tile_maxima(_tile_maxima(logits, 2), 3)
    certain = torch.where(local_maxima(tiles, ties="none"), tiles, -torch.inf).flatten(1)
    known = certain.topk(min(num_peaks, certain.shape[1])).values[:, -1]
    floor = known if certain.shape[1] >= num_peaks else torch.full_like(known, -torch.inf)
    return floor, tiles >= floor[:, None, None, None]


def _pixels(logits: Tensor, flat: Tensor, floor: Tensor, tiles: Tensor) -> Tensor:
    """Places in (N, C, H, W) of the pixels of tiles that reach the floor of their image."""
    height, width = logits.shape[-2:]
    image, channel, row, column = tiles.nonzero().T[..., None, None]
    side = torch.arange(TILE)
    y, x = row * TILE + side[:, None], column * TILE + side
    places = ((image * logits.shape[1] + channel) * height + y.clamp(max=height - 1)) * width + x.clamp(max=width - 1)
    inside = (y < height) & (x < width)
    found: Tensor = places[inside & (flat[places] >= floor[image])]
    return found


def _tile_maxima(maps: Tensor, dim: int) -> Tensor:
    """Maxima of runs of ``TILE`` along a dimension; the last run may be shorter."""
    whole = maps.shape[dim] // TILE * TILE
    parts = (
        [maps.narrow(dim, 0, whole).reshape(*maps.shape[:dim], -1, TILE, *maps.shape[dim + 1 :]).amax(dim + 1)]
        if whole
        else []
    )
    if whole < maps.shape[dim]:
        parts.append(maps.narrow(dim, whole, maps.shape[dim] - whole).amax(dim, keepdim=True))
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def _are_maxima(logits: Tensor, flat: Tensor, places: Tensor, kernel_size: int, ties: Ties) -> Tensor:
    """Which places in (N, C, H, W) are local maxima of their plane."""
    height, width = logits.shape[-2:]
    values, x = flat[places], places % width
    y = torch.div(places, width, rounding_mode="floor") % height
    reach = kernel_size // 2
    found = values > -torch.inf
    for step, (down, right) in enumerate(itertools.product(range(-reach, reach + 1), repeat=2)):
        if (down, right) != (0, 0):
            inside = (y + down >= 0) & (y + down < height) & (x + right >= 0) & (x + right < width)
            other = flat[torch.where(inside, places + down * width + right, places)]
            beaten = values <= other if _excludes(step, kernel_size, ties) else values < other
            found &= ~(inside & beaten)
    return found
