"""Anchors at the centers of a pyramid's cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headwise.whole import check_size, check_whole


def centered_anchors(
    image_size: tuple[int, int],
    *,
    strides: Sequence[int] = (8, 16, 32, 64, 128),
    sides: Sequence[float] = (32, 64, 128, 256, 512),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    scales: Sequence[float] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
) -> list[Tensor]:
    """RetinaNet's anchors, centered on the cells they belong to.

    A level has ``ceil(size / stride)`` cells; their centers are spread evenly over the image. An anchor's area is
    ``(side * scale)^2``.

    Args:
        image_size: Height and width, pixels of the network's input.
        strides: Of each level.
        sides: Square root of the anchors' area, of each level, pixels.
        ratios: Widths over heights.
        scales: Factors of each side.

    Returns:
        Per level (A_l, 4) float32, x1, y1, x2, y2: rows of cells, then cells, then ratios, then scales.

    Raises:
        ValueError: There is not one side a stride, or a number is not positive.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4; kuangliu/pytorch-retinanet at 2d7c6633,
        encoder.py.

    Differs:
        torchvision's AnchorGenerator puts the same shapes on the cells' upper left corners and rounds their corners to
        whole pixels.
    """
    check_size("centered_anchors", image_size=image_size)
    for stride in strides:
        check_whole("centered_anchors", strides=stride)
    if len(strides) != len(sides) or not all(n > 0 for n in (*sides, *ratios, *scales)):
        raise ValueError(
            "centered_anchors: one side a stride is needed, and positive numbers; found image_size "
            f"{tuple(image_size)}, strides {tuple(strides)}, sides {tuple(sides)}, ratios {tuple(ratios)}, scales "
            f"{tuple(scales)}. Correct the one that does not fit."
        )
    shapes = torch.tensor(
        [(scale * ratio**0.5, scale * ratio**-0.5) for ratio in ratios for scale in scales], dtype=torch.float64
    )
    levels = []
    for stride, side in zip(strides, sides, strict=True):
        rows, columns = (_centers(length, stride) for length in image_size)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centers = torch.stack([x, y], -1).reshape(-1, 1, 2)
        half = side * shapes / 2
        levels.append(torch.cat([centers - half, centers + half], -1).reshape(-1, 4).float())
    return levels


def _centers(length: int, stride: int) -> Tensor:
    num_cells = -(-length // stride)
    return (torch.arange(num_cells, dtype=torch.float64) + 0.5) * (length / num_cells)
