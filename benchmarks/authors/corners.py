"""CornerNet's targets and loss in the formulation of its authors: bumps drawn one by one, Boolean gathers.

Written anew from the description of `core/sample` and `core/models/py_utils/losses.py` in princeton-vl/CornerNet-Lite
at commit 6a54505d; only the order of operations is theirs. It is what the coders and fused losses are timed against and
checked to be equal to.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
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


def focal_loss(probabilities: list[Tensor], target: Tensor) -> Tensor:
    """Of the clamped heat maps of all stacks; gathers positives and negatives."""
    positive, negative = target.eq(1), target.lt(1)
    weights = torch.pow(1 - target[negative], 4)
    loss = target.new_zeros(())
    for heat_map in probabilities:
        at_positive, at_negative = heat_map[positive], heat_map[negative]
        positive_sum = (torch.log(at_positive) * torch.pow(1 - at_positive, 2)).sum()
        negative_sum = (torch.log(1 - at_negative) * torch.pow(at_negative, 2) * weights).sum()
        count = positive.float().sum()
        loss = loss - negative_sum if at_positive.nelement() == 0 else loss - (positive_sum + negative_sum) / count
    return loss


def embedding_loss(first: Tensor, second: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """Pull and push of embeddings (N, K)."""
    num = objects.sum(dim=1, keepdim=True).float()
    mean = (first + second) / 2
    pull = sum((torch.pow(each - mean, 2) / (num + 1e-4))[objects].sum() for each in (first, second))
    pairs = objects.unsqueeze(1) & objects.unsqueeze(2)
    num = num.unsqueeze(2)
    apart = F.relu(1 - (mean.unsqueeze(1) - mean.unsqueeze(2)).abs())
    push = ((apart - 1 / (num + 1e-4)) / ((num - 1) * num + 1e-4))[pairs].sum()
    return torch.as_tensor(pull), push


def gather(maps: Tensor, index: Tensor) -> Tensor:
    """Values (N, K, D) of (N, D, H, W) maps."""
    rows = maps.permute(0, 2, 3, 1).contiguous().view(len(maps), -1, maps.shape[1])
    return rows.gather(1, index.unsqueeze(2).expand(-1, -1, maps.shape[1]))


def offset_loss(found: Tensor, target: Tensor, objects: Tensor) -> Tensor:
    inside = objects.unsqueeze(2).expand_as(target)
    return F.smooth_l1_loss(found[inside], target[inside], reduction="sum") / (objects.float().sum() + 1e-4)


def cornernet_loss(stacks: list[dict[str, Tensor]], targets: dict[str, Tensor]) -> Tensor:
    """The whole loss; the sigmoid makes a new tensor here, where theirs overwrites the output."""
    objects = targets["objects"]
    total = objects.new_zeros((), dtype=torch.float32)
    for corner in CORNERS:
        maps = [torch.clamp(torch.sigmoid(stack[f"{corner}_heatmap"]), 1e-4, 1 - 1e-4) for stack in stacks]
        total = total + focal_loss(maps, targets[f"{corner}_heatmap"])
    for stack in stacks:
        first, second = (gather(stack[f"{each}_embedding"], targets[f"{each}_index"]).squeeze(2) for each in CORNERS)
        pull, push = embedding_loss(first, second, objects)
        total = total + 0.1 * pull + 0.1 * push
        for corner in CORNERS:
            found = gather(stack[f"{corner}_offset"], targets[f"{corner}_index"])
            total = total + offset_loss(found, targets[f"{corner}_offset"], objects)
    return total / len(stacks)
