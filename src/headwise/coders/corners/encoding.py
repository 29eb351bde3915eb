"""Boxes to CornerNet's and CenterNet's targets: heat maps, cells and offsets of corners and centers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headwise.coders.corners.annotation import (
    Array,
    Objects,
    Sizes,
    clip,
    gather_objects,
    has_area,
    ignored_objects,
    points_of,
    to_cells,
)
from headwise.coders.heatmaps import draw_gaussians, gaussian_radius
from headwise.whole import check_whole

# How many of a bump's standard deviations its window is wide.
SIGMAS = {"top_left": 6.0, "bottom_right": 6.0, "center": 5.0}


@dataclass(frozen=True)
class BumpRule:
    """How wide the bumps are."""

    min_overlap: float
    legacy_radius: bool
    gaussian: bool

    def radii(self, boxes: Tensor, sizes: Sizes) -> Tensor:
        """Radii of the bumps in cells, (M,) int64."""
        if not self.gaussian:
            return torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        extent = ((boxes[:, 2:] - boxes[:, :2]) * boxes.new_tensor(sizes.scale)).ceil()
        return gaussian_radius(extent[:, 1], extent[:, 0], self.min_overlap, self.legacy_radius).long()


def encode_corners(
    boxes: Sequence[Array],
    labels: Sequence[Array],
    *,
    image_size: tuple[int, int],
    grid_size: tuple[int, int],
    num_classes: int,
    num_slots: int = 128,
    min_overlap: float = 0.3,
    legacy_radius: bool = False,
    legacy_clip: bool = False,
    center: bool = False,
    gaussian: bool = True,
    ignored: Sequence[Array] | None = None,
    out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Targets of CornerNet, CornerNet-Squeeze and, with ``center``, CenterNet.

    With f the position of a corner (or center) in cells, ``f = pixels * grid / image`` in float32: its cell is ``i =
    int(f)``, its offset ``f - i``, and in the map of its class there is a bump of exactly 1 at i; see
    `coders.heatmaps.draw_gaussians`, with the radius of `coders.heatmaps.gaussian_radius`, cut to a whole number, of
    the box's height and width in cells, rounded up. Centers have narrower bumps.

    Boxes are clipped to the picture; what has no width or height then is left out. An image may hold more objects than
    ``num_slots``: the slots of the whole batch grow to the next multiple of it, nothing is lost.

    Args:
        boxes: Per image (n, 4), x1, y1, x2, y2 in pixels of the network's input (edges: the picture spans 0..width),
            any real dtype, tensors or arrays.
        labels: Per image (n,), integer, 0..num_classes - 1.
        image_size: Height and width of the network's input, published 511.
        grid_size: Height and width of its outputs, published 128, Squeeze 64.
        num_classes: How many classes there are.
        num_slots: Slots for objects come in multiples of this, >= 1.
        min_overlap: What a pair of corners off by the radius overlaps with the box, in (0, 1); CenterNet has 0.7.
        legacy_radius: The radius of the published CenterNet, which does not keep that overlap.
        legacy_clip: Clip boxes to the last pixel's center, width - 1, as published; else the picture's edge is kept,
            and its offset is 1 from the last cell.
        center: Also encode centers.
        gaussian: Draw bumps; else single cells.
        ignored: Per image (n,) bool: regions that are no object, as COCO's crowds. Left out: these presets have no mask
            for heat maps.
        out: The targets of an earlier call that are no longer needed, to draw into their heat maps where these are of
            the right shape: on a CPU most of the time goes into fresh zeros.

    Returns:
        ``top_left_heatmap``, ``bottom_right_heatmap`` (N, C, H, W) float32; ``top_left_index``,
        ``bottom_right_index`` (N, K) int64, y * W + x; ``top_left_offset``, ``bottom_right_offset`` (N, K, 2)
        float32, x and y; ``objects`` (N, K) bool; with ``center`` the same three of ``center``.

    Raises:
        ValueError: Lists of different length, a dtype, shape, label or coordinate that does not fit (named by image and
            box), or an option out of its range.

    Reference:
        Law and Deng, CornerNet, ECCV 2018, section 3.2; princeton-vl/CornerNet-Lite at 6a54505d,
        core/sample/cornernet.py; Duankaiwen/CenterNet at 3ad3a106, sample/coco.py.

    Differs:
        A 129th object is an error in theirs; crowds are ordinary objects there; their clip moves right and lower edges
        by a pixel. CenterNet as published: ``center=True, min_overlap=0.7, legacy_radius=True, legacy_clip=True``.
    """
    sizes = Sizes(image_size, grid_size, num_classes)
    objects = gather_objects(boxes, labels, num_classes)
    left_out = ignored_objects(ignored, objects)
    clipped = clip(objects, image_size, legacy_clip)
    keep = has_area(clipped) if left_out is None else has_area(clipped) & ~left_out
    bumps = BumpRule(min_overlap, legacy_radius, gaussian)
    return point_targets(clipped.where(keep), sizes, bumps, num_slots, center, out)


def point_targets(
    objects: Objects,
    sizes: Sizes,
    bumps: BumpRule,
    num_slots: int,
    center: bool,
    out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Heat maps, indices and offsets of objects, and which slots hold one.

    Args:
        objects: What is encoded, within the picture.
        sizes: Of picture and grid.
        bumps: How wide they are.
        num_slots: Slots come in multiples of this.
        center: Whether centers are encoded too.
        out: Earlier targets whose heat maps may be drawn into.

    Returns:
        The targets of `encode_corners`.

    Raises:
        ValueError: `num_slots` is less than 1.
    """
    check_whole("corners", num_slots=num_slots)
    points = points_of(objects.boxes, center)
    cells, offsets = to_cells(torch.stack(list(points.values())), sizes)
    heat_maps = draw_gaussians(
        (objects.num_images, sizes.num_classes, *sizes.grid),
        [objects.planes(sizes.num_classes)] * len(points),
        list(cells),
        [bumps.radii(objects.boxes, sizes)] * len(points),
        sigmas_per_diameter=[SIGMAS[name] for name in points],
        out=None if out is None else [out.get(f"{name}_heatmap") for name in points],
    )
    targets = {f"{name}_heatmap": each for name, each in zip(points, heat_maps, strict=True)}
    return targets | _slot_targets(list(points), objects, cells, offsets, sizes, num_slots)


def _slot_targets(
    names: list[str], objects: Objects, cells: Tensor, offsets: Tensor, sizes: Sizes, num_slots: int
) -> dict[str, Tensor]:
    places = objects.images, objects.slots()
    most = int(places[1].max()) + 1 if len(places[1]) else 1
    slots = objects.num_images, num_slots * -(-most // num_slots)
    # Tables of all points: what there is, in slots of its image.
    index = cells.new_zeros((len(names), *slots))
    index[:, *places] = cells[..., 1] * sizes.grid[1] + cells[..., 0]
    offset = offsets.new_zeros((len(names), *slots, 2))
    offset[:, *places] = offsets
    filled = torch.zeros(slots, dtype=torch.bool, device=cells.device)
    filled[places] = True
    targets = {"objects": filled}
    for name, indices, fractions in zip(names, index, offset, strict=True):
        targets |= {f"{name}_index": indices, f"{name}_offset": fractions}
    return targets
