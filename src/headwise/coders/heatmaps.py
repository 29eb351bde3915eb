"""Heat maps: how far a corner may miss, and Gaussian bumps drawn for every object of a batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from headwise.require import require


@overload
def gaussian_radius(height: float, width: float, min_overlap: float, legacy: bool = False) -> float: ...


@overload
def gaussian_radius(height: Tensor, width: Tensor | float, min_overlap: float, legacy: bool = False) -> Tensor: ...


@overload
def gaussian_radius(height: float, width: Tensor, min_overlap: float, legacy: bool = False) -> Tensor: ...


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
    if not ((h >= 0) & (w >= 0) & (h + w < torch.inf)).all():
        raise ValueError("gaussian_radius: height and width are at least 0 and finite, found one that is not.")
    # In the authors' order of operations: a radius is cut to a whole number, and a rounding would show.
    total, spare = h + w, (1 - min_overlap) * w * h
    if legacy:
        share = 2 * min_overlap * total
        radius = ((share.square() + 16 * min_overlap * spare).sqrt() - share) / 2
    else:
        # Rounding can bring the radicand of a square below 0 as the overlap approaches 0.
        radius = (total - (total.square() - 4 * spare).clamp(min=0).sqrt()) / 4
    return radius if isinstance(height, Tensor) or isinstance(width, Tensor) else radius.item()


def draw_gaussians(
    shape: tuple[int, int, int, int],
    planes: Sequence[Tensor],
    centers: Sequence[Tensor],
    radii: Sequence[Tensor],
    *,
    sigmas_per_diameter: Sequence[float],
    out: Sequence[Tensor | None] | None = None,
) -> list[Tensor]:
    """Heat maps with a bump for every object, several sets of maps at once; where bumps meet, the higher one holds.

    A bump is ``exp(-(dx^2 + dy^2) / (2 s^2))`` over the square of 2 r + 1 cells around its center, cut off at the
    border, with ``s = (2 r + 1) / sigmas_per_diameter``: exactly 1 at the center, at least exp(-9) in the corners of
    the square for 6. (The authors set what is less than the float's epsilon to 0, which never happens.)

    Args:
        shape: N, C, H, W of each set.
        planes: Per set, which of its N * C maps each bump is for, (M,) int64.
        centers: Per set, the cells x, y of the centers, (M, 2) int64, within the maps.
        radii: Per set, in cells, (M,) int64, >= 0; 0 is a single cell.
        sigmas_per_diameter: Per set; 6 for corners, 5 for CenterNet's centers.
        out: Maps of an earlier call that are no longer needed: those that are of the right shape are drawn into. Only
            the bumps of that call are cleared, unless somebody else has written to them since.

    Returns:
        The sets, float32.

    Reference:
        princeton-vl/CornerNet-Lite at 6a54505d, core/sample/utils.py.
    """
    counts = [len(each) for each in planes]
    sigmas = torch.tensor(sigmas_per_diameter, dtype=torch.float32).repeat_interleave(torch.tensor(counts))
    bumps = _Bumps(
        torch.cat(list(planes)), torch.cat(list(centers)), torch.cat(list(radii)), sigmas.to(centers[0].device)
    )
    cells, heights, sizes = bumps.rasterize(shape[-2:])
    totals = [int(each.sum()) for each in sizes.split_with_sizes(counts)]
    earlier = [None] * len(totals) if out is None else out
    return [
        _draw(old, shape, *drawn)
        for old, *drawn in zip(earlier, cells.split_with_sizes(totals), heights.split_with_sizes(totals), strict=True)
    ]


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
    rows = _RectangleRows.of(planes, first, last, size)
    row, step = _runs(rows.length)
    return rows.start[row] + step


@dataclass(frozen=True)
class _RectangleRows:
    """All rows of M rectangles, one rectangle after the other."""

    owner: Tensor  # which rectangle each row belongs to
    y: Tensor
    start: Tensor  # the flat position of its first cell
    length: Tensor

    @classmethod
    def of(cls, planes: Tensor, first: Tensor, last: Tensor, size: tuple[int, int]) -> _RectangleRows:
        owner, step = _runs(last[:, 1] - first[:, 1] + 1)
        table = torch.stack([planes, first[:, 0], first[:, 1], last[:, 0]])[:, owner]
        y = table[2] + step
        return cls(owner, y, (table[0] * size[0] + y) * size[1] + table[1], table[3] - table[1] + 1)


@dataclass(frozen=True)
class _Bumps:
    """M bumps; see `draw_gaussians`."""

    planes: Tensor
    centers: Tensor
    radii: Tensor
    sigmas_per_diameter: Tensor

    def rasterize(self, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """The flat positions and heights of all cells, and how many each bump has."""
        limits = self.centers.new_tensor([size[1] - 1, size[0] - 1])
        first = (self.centers - self.radii[:, None]).clamp(min=0)
        last = torch.minimum(self.centers + self.radii[:, None], limits)
        rows = _RectangleRows.of(self.planes, first, last, size)
        # exp(-(dx^2 + dy^2) / (2 s^2)) is the product of two profiles; the one along y is computed once a row.
        steepness = (-0.5 * (self.sigmas_per_diameter / (2 * self.radii + 1)).square())[rows.owner]
        row_height = torch.exp(steepness * (rows.y - self.centers[:, 1][rows.owner]).square())
        left = (first[:, 0] - self.centers[:, 0])[rows.owner]
        row, step = _runs(rows.length)
        per_row = torch.stack([steepness, row_height, left])[:, row]
        heights = per_row[1] * torch.exp(per_row[0] * (per_row[2] + step).square())
        return rows.start[row] + step, heights, (last - first + 1).prod(1)


def _runs(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of these lengths one after another: which run each element belongs to, and its place there."""
    run = torch.repeat_interleave(lengths)
    starts = lengths.cumsum(0) - lengths
    return run, torch.arange(len(run), device=run.device) - starts[run]


@dataclass(frozen=True)
class _Drawn:
    """What a call has drawn into a map, and the map's version after it."""

    cells: Tensor
    version: int


def _draw(old: Tensor | None, shape: tuple[int, int, int, int], cells: Tensor, heights: Tensor) -> Tensor:
    if old is None or old.shape != shape or old.device != cells.device or old.dtype != torch.float32:
        maps = _zeros(shape, cells.device)
    else:
        maps = _cleared(old)
    maps.view(-1).scatter_reduce_(0, cells, heights, "amax")
    maps.headwise_drawn = _Drawn(cells, maps._version)  # type: ignore[attr-defined]
    return maps


def _cleared(maps: Tensor) -> Tensor:
    drawn = getattr(maps, "headwise_drawn", None)
    if drawn is None or drawn.version != maps._version:
        return maps.zero_()
    maps.view(-1)[drawn.cells] = 0.0
    return maps


def _zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Float32 zeros; on a CPU the system's own, cleared in large pages: several times faster than `torch.zeros`."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=torch.float32, device=device)
    require("coders.heatmaps", "coders", "numpy")
    import numpy as np

    return torch.from_numpy(np.zeros(shape, np.float32))
