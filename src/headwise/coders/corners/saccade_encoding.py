"""Boxes in a crop to CornerNet-Saccade's targets: CornerNet's, where heat maps count, and where to look closer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headwise.coders.corners.annotation import (
    Array,
    Objects,
    Sizes,
    clip,
    flag_objects,
    gather_objects,
    has_area,
    ignored_objects,
    points_of,
    to_cells,
)
from headwise.coders.corners.encoding import BumpRule, point_targets
from headwise.coders.heatmaps import cells_of_windows
from headwise.whole import check_whole

# Pixels a cell of each attention map, coarse to fine, and the least and greatest longer side it is for.
ATTENTION_STRIDES = (16, 8, 4)
ATTENTION_RANGES = ((96.0, math.inf), (32.0, 96.0), (0.0, 32.0))


def encode_saccade(
    boxes: Sequence[Array],
    labels: Sequence[Array],
    *,
    image_size: tuple[int, int],
    grid_size: tuple[int, int],
    num_classes: int,
    kept: Sequence[Array] | None = None,
    min_kept: float = 0.5,
    min_side: int = 16,
    attention_strides: Sequence[int] = ATTENTION_STRIDES,
    attention_ranges: Sequence[tuple[float, float]] = ATTENTION_RANGES,
    legacy_ranges: bool = False,
    num_slots: int = 128,
    min_overlap: float = 0.5,
    legacy_radius: bool = False,
    legacy_clip: bool = False,
    gaussian: bool = True,
    ignored: Sequence[Array] | None = None,
) -> dict[str, Any]:
    """Targets of CornerNet-Saccade.

    An object takes part if more than ``min_kept`` of it is inside the crop and its longer side, both ends cut to whole
    pixels, is at least ``min_side``: it is encoded as by `encode_corners`. Any other box makes the windows of its two
    bumps invalid in its class. Every box, taking part or not, is a 1 in the attention map of its size, at the cell of
    its center.

    Args:
        boxes: Per crop (n, 4), x1, y1, x2, y2 in its pixels; may extend beyond it.
        labels: As `encode_corners`.
        image_size: Height and width of the crop, published 255.
        grid_size: Height and width of the outputs, published 64.
        num_classes: As `encode_corners`.
        kept: Per crop (n,): the share of each object's area that is inside. By default that of ``boxes``: right if
            they have not been clipped before.
        min_kept: What must be exceeded, in [0, 1).
        min_side: In pixels, >= 0.
        attention_strides: Pixels a cell of each attention map, coarse to fine; its size is that of the crop divided by
            it, rounded up.
        attention_ranges: Per map the longer sides ``low <= side < high`` in pixels that it is for.
        legacy_ranges: Count ``side == high`` in, as published, so that a box of 32 or 96 is in two maps.
        num_slots: As `encode_corners`.
        min_overlap: As `encode_corners`; published 0.5.
        legacy_radius: As `encode_corners`.
        legacy_clip: As `encode_corners`.
        gaussian: As `encode_corners`.
        ignored: Per crop (n,) bool: regions that are no object, as COCO's crowds. All of such a box is invalid in its
            class, but for the peaks of objects in it; attention knows nothing of it.

    Returns:
        The targets of `encode_corners`, and ``attention``: a list of (N, 1, h, w) float32 of 0 and 1, and
        ``top_left_valid``, ``bottom_right_valid`` (N, C, H, W) bool: what counts.

    Raises:
        ValueError: As `encode_corners`; also a share that is negative or not finite.

    Reference:
        Law et al., CornerNet-Lite, BMVC 2020, section 3; princeton-vl/CornerNet-Lite at 6a54505d,
        core/sample/cornernet_saccade.py.

    Differs:
        Attention's ranges are half-open by default; crowds, ordinary objects there, are regions that do not count; the
        widest range has no end.
    """
    sizes, bumps = Sizes(image_size, grid_size, num_classes), BumpRule(min_overlap, legacy_radius, gaussian)
    _check_options(min_kept, min_side, attention_strides, attention_ranges)
    objects = gather_objects(boxes, labels, num_classes)
    clipped = clip(objects, image_size, legacy_clip)
    inside, crowd = has_area(clipped), ignored_objects(ignored, objects)
    regular = inside if crowd is None else inside & ~crowd
    shares = _kept_shares(kept, objects, clipped)
    takes_part = regular & (shares > min_kept) & (_longer_side(clipped.boxes.trunc()) >= min_side)
    targets = point_targets(clipped.where(takes_part), sizes, bumps, num_slots, center=False)
    valid = _valid_maps(targets, clipped, (inside & ~regular, regular & ~takes_part), sizes, bumps)
    looked_at = clipped.where(regular)
    attention = [
        _attention(looked_at, image_size, stride, limits, legacy_ranges)
        for stride, limits in zip(attention_strides, attention_ranges, strict=True)
    ]
    return {**targets, **valid, "attention": attention}


def _check_options(
    min_kept: float, min_side: int, strides: Sequence[int], ranges: Sequence[tuple[float, float]]
) -> None:
    check_whole("encode_saccade", 0, min_side=min_side)
    for stride in strides:
        check_whole("encode_saccade", attention_strides=stride)
    rules = {
        f"min_kept is in [0, 1), found {min_kept}": 0 <= min_kept < 1,
        f"attention has a stride and a range per map, found {len(strides)} and {len(ranges)}": len(strides)
        == len(ranges),
        f"attention_ranges are (low, high) with low < high, found {tuple(ranges)}": all(a < b for a, b in ranges),
    }
    for message, holds in rules.items():
        if not holds:
            raise ValueError(f"encode_saccade: {message}.")


def _longer_side(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).amax(1)


def _kept_shares(kept: Sequence[Array] | None, objects: Objects, clipped: Objects) -> Tensor:
    given = flag_objects("kept", kept, objects)
    if given is None:
        inside, whole = ((each.boxes[:, 2:] - each.boxes[:, :2]).prod(1) for each in (clipped, objects))
        return torch.where(whole > 0, inside / whole, 0.0)
    broken = ~((given >= 0) & given.isfinite())
    if broken.any():
        first = int(broken.nonzero()[0])
        where = f"image {int(objects.images[first])}, box {int(objects.slots()[first])}"
        raise ValueError(f"{where}: a share that is kept is a number of at least 0, found {given[first].item()}.")
    return given


def _valid_maps(
    targets: dict[str, Tensor], clipped: Objects, groups: tuple[Tensor, Tensor], sizes: Sizes, bumps: BumpRule
) -> dict[str, Tensor]:
    """What counts: neither in a region that is ignored (peaks in it do count) nor near an object that takes no part."""
    regions, no_part = (clipped.where(group) for group in groups)
    (first, _), (last, _) = (to_cells(points, sizes) for points in points_of(regions.boxes, center=False).values())
    ignored_cells = cells_of_windows(regions.planes(sizes.num_classes), first, last, sizes.grid)
    radii, planes = bumps.radii(no_part.boxes, sizes)[:, None], no_part.planes(sizes.num_classes)
    limits = radii.new_tensor([sizes.grid[1] - 1, sizes.grid[0] - 1])
    valid = {}
    for name, points in points_of(no_part.boxes, center=False).items():
        cells, _ = to_cells(points, sizes)
        window = (cells - radii).clamp(min=0), torch.minimum(cells + radii, limits)
        heat_map = targets[f"{name}_heatmap"]
        counts = torch.ones_like(heat_map, dtype=torch.bool)
        counts.view(-1)[ignored_cells] = False
        if len(ignored_cells):
            counts |= heat_map == 1
        counts.view(-1)[cells_of_windows(planes, *window, sizes.grid)] = False
        valid[f"{name}_valid"] = counts
    return valid


def _attention(
    objects: Objects, image_size: tuple[int, int], stride: int, limits: tuple[float, float], legacy: bool
) -> Tensor:
    height, width = (-(-side // stride) for side in image_size)
    side, (low, high) = _longer_side(objects.boxes), limits
    chosen = (side >= low) & ((side <= high) if legacy else (side < high))
    centers = (objects.boxes[chosen, :2] + objects.boxes[chosen, 2:]) / 2
    # The center of a box thinner than float32's spacing may round to the picture's very edge.
    last = centers.new_tensor([width - 1, height - 1])
    column, row = torch.minimum(centers / stride, last).long().unbind(1)
    maps = torch.zeros((objects.num_images, 1, height, width), dtype=torch.float32, device=side.device)
    maps[objects.images[chosen], 0, row, column] = 1.0
    return maps
