"""Where CornerNet-Saccade looks next: peaks of attention, and boxes already found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headwise.coders.corners.crops import Crops
from headwise.coders.corners.peaks import local_maxima
from headwise.coders.corners.placement import Size
from headwise.whole import check_size

LARGEST_SCALE = 2.0  # of a crop whose attention is followed
LARGEST_NEXT_SCALE = 4.0
# A box whose long side is over the first number of pixels is looked at with a long side of the second.
REFERENCE_SIDES = ((96.0, 192.0), (32.0, 64.0), (-1.0, 24.0))


def attention_locations(
    attention: Sequence[Tensor],
    crops: Crops,
    image_size: Size,
    *,
    zooms: Sequence[float] = (1.0, 2.0, 4.0),
    threshold: float = 0.3,
    kernel_size: int = 3,
    as_published: bool = False,
) -> Tensor:
    """Peaks of the attention maps as locations of the picture.

    A peak of the map of large, medium or small objects is looked at with the crop's scale times 1, 2 or 4. Nothing is
    followed from crops of a scale over 2, nor to a scale over 4.

    Args:
        attention: Logits (n, 1, h, w), one map per class of size, coarse to fine.
        crops: The n crops that the network saw.
        image_size: Height and width of the picture; locations outside are left out.
        zooms: One factor per map.
        threshold: Probability that a peak must exceed.
        kernel_size: Side of the neighborhood whose highest pixel is a peak, odd.
        as_published: Every pixel of a plateau is a peak, and lies at its cell's left top corner, not in its middle.

    Returns:
        (m, 4) x, y, scale, probability, crop by crop.

    Raises:
        ValueError: If maps, zooms and crops differ in number, a map holds NaN, or an option is out of range.
    """
    check_size("attention_locations", image_size=image_size)
    if len(attention) != len(zooms) or any(maps.shape[:2] != (len(crops), 1) for maps in attention):
        raise ValueError(
            f"attention_locations: {len(crops)} crops and {len(zooms)} zooms need as many maps of shape "
            f"({len(crops)}, 1, h, w), found {[tuple(maps.shape) for maps in attention]}."
        )
    found, seen_in = [crops.scales.new_zeros(0, 4)], [torch.zeros(0, dtype=torch.long, device=crops.scales.device)]
    for maps, zoom in zip(attention, zooms, strict=True):
        maps = maps.detach().squeeze(1).to(crops.scales)
        if bool(maps.isnan().any()):
            raise ValueError("attention_locations: an attention map holds NaN. The network has diverged.")
        chosen = local_maxima(maps, kernel_size, "all" if as_published else "first") & (maps.sigmoid() > threshold)
        chosen &= ((crops.scales <= LARGEST_SCALE) & (zoom * crops.scales <= LARGEST_NEXT_SCALE))[:, None, None]
        crop, y, x = chosen.nonzero(as_tuple=True)
        cell = (crops.window + 1) / maps.shape[-1]
        points = (torch.stack([x, y], 1) + (0.0 if as_published else 0.5)) * cell
        scales = crops.scales[crop] * zoom
        scores = maps[crop, y, x].sigmoid()
        found.append(torch.cat([crops.to_image(points, crop), scales[:, None], scores[:, None]], 1))
        seen_in.append(crop)
    locations = torch.cat(found)[torch.cat(seen_in).argsort(stable=True)]
    limits = locations.new_tensor([image_size[1], image_size[0]])
    return locations[((locations[:, :2] >= 0) & (locations[:, :2] < limits)).all(1)]


def reference_locations(
    boxes: Tensor,
    scores: Tensor,
    *,
    threshold: float = 0.5,
    reference_sides: Sequence[tuple[float, float]] = REFERENCE_SIDES,
) -> Tensor:
    """The middles of boxes that are sure enough, at a scale that brings them to a good size.

    By default the long side becomes 192 pixels where it is over 96, 64 where over 32, else 24.

    Args:
        boxes: (n, 4) in pixels of the picture.
        scores: (n,).
        threshold: Score that a box must exceed.
        reference_sides: From large to small, the long side over which a box is looked at, and with what long side.

    Returns:
        (m, 4) x, y, scale, and the score 1, so that they come before peaks of attention.
    """
    boxes = boxes[scores > threshold]
    left_top, right_bottom = boxes[:, :2], boxes[:, 2:]
    longest = (right_bottom - left_top).amax(1)
    sides = torch.full_like(longest, reference_sides[-1][1])
    for least, side in reversed(reference_sides):
        sides = torch.where(longest > least, side, sides)
    # A box without extent would ask for an infinite scale.
    scales = sides / longest.clamp(min=1.0)
    return torch.cat([(left_top + right_bottom) / 2, scales[:, None], torch.ones_like(scales)[:, None]], 1)


def suppress_locations(locations: Tensor, *, distance: float = 16.0, as_published: bool = False) -> Tensor:
    """Drop locations near a better one of about the same scale.

    Near is max(dx, dy) <= ``distance`` / scale with the better one's scale, and about the same a ratio of scales in
    [0.8, 1.2].

    Args:
        locations: (n, 4) x, y, scale, score.
        distance: Pixels of a crop.
        as_published: Take min(dx, dy): whatever lies in the same row or column is near. Of equal scores the last comes
            first.

    Returns:
        The locations that remain, best first.
    """
    scores = locations[:, 3]
    order = scores.argsort(stable=True).flip(0) if as_published else scores.argsort(descending=True, stable=True)
    left, kept = locations[order], []
    while len(left):
        best = left[0]
        apart = (left[:, :2] - best[:2]).abs()
        far = (apart.amin(1) if as_published else apart.amax(1)) > distance / best[2]
        ratio = best[2] / left[:, 2]
        keep = far | (ratio > 1.2) | (ratio < 0.8)
        keep[0] = False
        kept.append(best)
        left = left[keep]
    return torch.stack(kept) if kept else locations[:0]
