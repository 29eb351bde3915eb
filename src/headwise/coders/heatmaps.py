"""Heat maps: how far a corner may miss, and Gaussian bumps drawn for every object of a batch at once."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor


@overload
def gaussian_radius(height: float, width: float, min_overlap: float, legacy: bool = False) -> float: ...


@overload
def gaussian_radius(height: Tensor, width: Tensor, min_overlap: float, legacy: bool = False) -> Tensor: ...


def gaussian_radius(
    height: Tensor | float, width: Tensor | float, min_overlap: float, legacy: bool = False
) -> Tensor | float:
    """How far both corners of a box may miss, in x and in y, for an overlap of at least ``min_overlap``.

    Three cases: one corner inside the box and one outside, both inside, both outside. With s = h + w and o the least
    overlap they are r^2 - s r + hw (1 - o) / (1 + o) = 0, 4 r^2 - 2 s r + (1 - o) hw = 0 and 4 o r^2 + 2 o s r -
    (1 - o) hw = 0. The second radius is never above the others: ``r = (s - sqrt(s^2 - 4 (1 - o) h w)) / 4``.

    Args:
        height: Of the box, >= 0, any unit.
        width: Of the box, likewise; numbers, or tensors that broadcast.
        min_overlap: The least intersection over union o, in (0, 1).
        legacy: The radius of the formula that most repositories copied from the first CornerNet: roots divided by 2
            and not by 2 a. It is the third, ``-o s + sqrt(o^2 s^2 + 4 o (1 - o) h w)``, 4 o times the right one
            of that case, and does not keep the overlap.

    Returns:
        The radius in the unit of the box; a tensor is float64.

    Raises:
        ValueError: A size is negative or not a number, or the overlap is out of its range.

    Reference:
        Law and Deng, CornerNet, ECCV 2018, section 3.2; princeton-vl/CornerNet-Lite at 6a54505d,
        core/sample/utils.py; legacy: Duankaiwen/CenterNet at 3ad3a106, sample/utils.py.
    """
    if not 0 < min_overlap < 1:
        raise ValueError(f"gaussian_radius: min_overlap is in (0, 1), found {min_overlap}. CornerNet has 0.3.")
    h, w = torch.as_tensor(height, dtype=torch.float64), torch.as_tensor(width, dtype=torch.float64)
    if not ((h >= 0) & (w >= 0)).all():
        raise ValueError("gaussian_radius: height and width are at least 0, found a negative size or a NaN.")
    # In the authors' order of operations: a radius is cut to a whole number, and a rounding would show.
    total, spare = h + w, (1 - min_overlap) * w * h
    if legacy:
        share = 2 * min_overlap * total
        radius = ((share.square() + 16 * min_overlap * spare).sqrt() - share) / 2
    else:
        # Rounding can bring the radicand of a square below 0 as the overlap approaches 0.
        radius = (total - (total.square() - 4 * spare).clamp(min=0).sqrt()) / 4
    return radius if isinstance(height, Tensor) or isinstance(width, Tensor) else radius.item()


def zero_maps(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Float32 zeros to draw into.

    On a CPU the operating system's own zeroed pages, which cost nothing until they are touched: bumps touch few, and
    `torch.zeros` would write them all.
    """
    if device.type != "cpu":
        return torch.zeros(shape, device=device)
    try:
        import numpy as np
    except ImportError as error:
        raise ImportError("coders need numpy. Install it with: pip install headwise[coders]") from error
    return torch.from_numpy(np.zeros(shape, np.float32))


def draw_gaussians(
    maps: Tensor, planes: Tensor, centers: Tensor, radii: Tensor, *, sigmas_per_diameter: float = 6.0
) -> None:
    """Draw a bump for every object into heat maps, in place; where bumps meet, the higher one holds.

    A bump is ``exp(-(dx^2 + dy^2) / (2 s^2))`` over the square of 2 r + 1 cells around its centre, cut off at the
    border, with ``s = (2 r + 1) / sigmas_per_diameter``: exactly 1 at the centre, at least exp(-9) in the corners
    of the square for 6 (the authors set less than the float's epsilon to 0, which never happens).

    Args:
        maps: (P, H, W) float, contiguous, usually zeros.
        planes: Which of the P maps each bump is for, (M,) int64.
        centers: The cells x, y of the centres, (M, 2) int64, within the maps.
        radii: In cells, (M,) int64, >= 0; 0 is a single cell.
        sigmas_per_diameter: 6 for corners, 5 for CenterNet's centres.

    Reference:
        princeton-vl/CornerNet-Lite at 6a54505d, core/sample/utils.py.
    """
    height, width = maps.shape[-2:]
    limits = centers.new_tensor([width, height])
    first = (centers - radii[:, None]).clamp(min=0)
    last = torch.minimum(centers + radii[:, None], limits - 1)
    bump, row_y, row_start, row_length = _rows(first, last, planes, maps.shape[-2:])
    # exp(-(dx^2 + dy^2) / (2 s^2)) is the product of two profiles; the one along y is computed once a row.
    steepness = -0.5 * (sigmas_per_diameter / (2 * radii + 1).to(maps.dtype)).square()
    row_steepness = steepness[bump]
    row_height = torch.exp(row_steepness * (row_y - centers[bump, 1]).square())
    row, step = _runs(row_length)
    offset = (first[:, 0] - centers[:, 0])[bump].index_select(0, row) + step
    profile = torch.exp(row_steepness.index_select(0, row) * offset.square())
    heights = profile * row_height.index_select(0, row)
    cells = row_start.index_select(0, row) + step
    maps.view(-1).scatter_reduce_(0, cells, heights, "amax")


def cells_of_windows(planes: Tensor, first: Tensor, last: Tensor, size: tuple[int, int]) -> Tensor:
    """The flat positions in (P, H, W) maps of all cells of rectangles.

    Args:
        planes: The map of each rectangle, (M,) int64.
        first: Its first cell x, y, (M, 2) int64, within the maps.
        last: Its last cell x, y, inclusive, likewise.
        size: Height and width of the maps.

    Returns:
        (T,) int64; a cell of two rectangles is there twice.
    """
    _, _, row_start, row_length = _rows(first, last, planes, size)
    row, step = _runs(row_length)
    return row_start.index_select(0, row) + step


def _rows(first: Tensor, last: Tensor, planes: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All rows of rectangles: whose each is, its y, the flat position of its first cell, and its length."""
    height, width = size
    lengths = last - first + 1
    owner, step = _runs(lengths[:, 1])
    y = first[owner, 1] + step
    return owner, y, (planes[owner] * height + y) * width + first[owner, 0], lengths[owner, 0]


def _runs(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of these lengths one after another: which run each element belongs to, and its place there."""
    run = torch.repeat_interleave(lengths)
    starts = lengths.cumsum(0) - lengths
    return run, torch.arange(len(run), device=run.device) - starts.index_select(0, run)
