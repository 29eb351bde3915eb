"""Corners to boxes in the authors' order of operations, written from their description.

The order of princeton-vl/CornerNet-Lite at 6a54505d, core/models/py_utils/utils.py, ``_decode``: the sigmoid of whole
maps, their 3 x 3 maxima, all else set to 0, the best of what is left; then all pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Corners = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def decode(
    stack: dict[str, Tensor], num_peaks: int = 100, num_detections: int = 1000, threshold: float = 0.5
) -> Tensor:
    """(N, num_detections, 8): x1, y1, x2, y2 on the grid, score (-1: none), both corners' scores, class."""
    scores, labels, x, y, tags = _corners(stack, "top_left", num_peaks)
    other_scores, other_labels, other_x, other_y, other_tags = _corners(stack, "bottom_right", num_peaks)
    shape = (len(scores), num_peaks, num_peaks)
    rows = [each[:, :, None].expand(shape) for each in (scores, labels, x, y, tags)]
    columns = [each[:, None, :].expand(shape) for each in (other_scores, other_labels, other_x, other_y, other_tags)]
    boxes = torch.stack([rows[2], rows[3], columns[2], columns[3]], 3)
    mean = (rows[0] + columns[0]) / 2
    mean[rows[1] != columns[1]] = -1
    mean[(rows[4] - columns[4]).abs() > threshold] = -1
    mean[columns[2] < rows[2]] = -1
    mean[columns[3] < rows[3]] = -1
    best, index = mean.flatten(1).topk(num_detections)
    boxes = boxes.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4))
    rest = [each.flatten(1).gather(1, index).float() for each in (rows[0], columns[0], rows[1])]
    return torch.cat([boxes, torch.stack([best, *rest], 2)], 2)


def _corners(stack: dict[str, Tensor], kind: str, num_peaks: int) -> Corners:
    heat = stack[f"{kind}_heatmap"].sigmoid()
    highest = F.max_pool2d(heat, 3, stride=1, padding=1)
    heat = heat * (highest == heat).float()
    height, width = heat.shape[2:]
    scores, places = heat.flatten(1).topk(num_peaks)
    labels = (places / (height * width)).int()
    places = places % (height * width)
    offset = _gather(stack[f"{kind}_offset"], places)
    x = (places % width).float() + offset[..., 0]
    y = (places / width).int().float() + offset[..., 1]
    return scores, labels, x, y, _gather(stack[f"{kind}_embedding"], places)[..., 0]


def _gather(maps: Tensor, places: Tensor) -> Tensor:
    rows = maps.permute(0, 2, 3, 1).contiguous().flatten(1, 2)
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[2]))
