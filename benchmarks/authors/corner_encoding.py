"""CornerNet's targets in the formulation of its authors: bumps drawn one by one with NumPy.

Written anew from the description of `core/sample` in princeton-vl/CornerNet-Lite at commit 6a54505d; only the order of
operations is theirs. It is what the coders are timed against and checked to be equal to.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Arrays = npt.NDArray[np.float32]
CORNERS = ("top_left", "bottom_right")


def radius_of(height: float, width: float, overlap: float) -> float:
    """The least of three radii."""
    total, area = height + width, height * width
    one = (total - math.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    inside = (2 * total - math.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 8
    linear = -2 * overlap * total
    outside = (linear + math.sqrt(linear**2 + 16 * overlap * (1 - overlap) * area)) / (8 * overlap)
    return min(one, inside, outside)


def draw(heat_map: Arrays, x: int, y: int, radius: int) -> None:
    """One bump into one map, in place."""
    diameter = 2 * radius + 1
    sigma = diameter / 6
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    bump = np.exp(-(columns * columns + rows * rows) / (2 * sigma * sigma))
    bump[bump < np.finfo(bump.dtype).eps * bump.max()] = 0
    height, width = heat_map.shape
    left, right = min(x, radius), min(width - x, radius + 1)
    top, bottom = min(y, radius), min(height - y, radius + 1)
    window = heat_map[y - top : y + bottom, x - left : x + right]
    part = bump[radius - top : radius + bottom, radius - left : radius + right]
    np.maximum(window, part, out=window)


def encode(
    boxes: list[Arrays], labels: list[npt.NDArray[np.int64]], image: int, grid: int, num_classes: int, overlap: float
) -> dict[str, Tensor]:
    """Targets of a batch, object by object, into dense maps; boxes lie in the image."""
    num_images, num_slots = len(boxes), 128
    shape = num_images, num_classes, grid, grid
    heat_maps = {corner: np.zeros(shape, np.float32) for corner in CORNERS}
    offsets = {corner: np.zeros((num_images, num_slots, 2), np.float32) for corner in CORNERS}
    indices = {corner: np.zeros((num_images, num_slots), np.int64) for corner in CORNERS}
    objects = np.zeros((num_images, num_slots), np.uint8)
    scale = grid / image
    for number, (table, classes) in enumerate(zip(boxes, labels, strict=True)):
        for slot, (box, label) in enumerate(zip(table, classes, strict=True)):
            width, height = math.ceil((box[2] - box[0]) * scale), math.ceil((box[3] - box[1]) * scale)
            radius = max(0, int(radius_of(height, width, overlap)))
            for corner, x, y in (("top_left", box[0], box[1]), ("bottom_right", box[2], box[3])):
                exact_x, exact_y = x * scale, y * scale
                cell_x, cell_y = int(exact_x), int(exact_y)
                draw(heat_maps[corner][number, label], cell_x, cell_y, radius)
                offsets[corner][number, slot] = [exact_x - cell_x, exact_y - cell_y]
                indices[corner][number, slot] = cell_y * grid + cell_x
            objects[number, slot] = 1
    targets = {"objects": torch.from_numpy(objects).bool()}
    for corner in CORNERS:
        targets[f"{corner}_heatmap"] = torch.from_numpy(heat_maps[corner])
        targets[f"{corner}_offset"] = torch.from_numpy(offsets[corner])
        targets[f"{corner}_index"] = torch.from_numpy(indices[corner])
    return targets
