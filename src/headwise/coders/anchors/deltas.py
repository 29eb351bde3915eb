"""A box told by how it differs from an anchor, and back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Weights = tuple[float, float, float, float]


def check_weights(coder: str, weights: Weights) -> None:
    """Asks for four weights that deltas can be multiplied and divided by.

    Args:
        coder: Name of the coder, for the message.
        weights: Of the deltas.

    Raises:
        ValueError: They are not.
    """
    if len(weights) != 4 or not all(0 < each < math.inf for each in weights):
        raise ValueError(
            f"{coder}: weights are four positive numbers, found {tuple(weights)}. RetinaNet has 1, SSD (10, 10, 5, 5)."
        )


def check_anchors(coder: str, anchors: Any) -> None:
    """Asks for anchors that are boxes.

    Args:
        coder: Name of the coder, for the message.
        anchors: Per level (A_l, 4).

    Raises:
        ValueError: They are no list of such tensors, or one has no area.
    """
    if isinstance(anchors, Tensor) or not anchors or any(level.shape[1:] != (4,) for level in anchors):
        found = [tuple(level.shape) for level in anchors]
        raise ValueError(
            f"{coder}: anchors are a list with one tensor (A_l, 4) a level, found shapes {found}. For one level "
            "give a list of one."
        )
    every = torch.cat(list(anchors))
    fine = (every[:, 2:] > every[:, :2]).all(1) & every.isfinite().all(1)
    if not fine.all():
        first = every[int((~fine).nonzero()[0])].tolist()
        raise ValueError(
            f"{coder}: anchors are x1, y1, x2, y2, finite with x2 > x1 and y2 > y1, found {first}. Convert centers and "
            "sizes first."
        )


UNIT: Weights = (1.0, 1.0, 1.0, 1.0)

MOST_GROWTH = math.log(1000 / 16)
"""Greatest logarithm of a width or height in anchors: exp of a wild output stays finite."""


def encode_deltas(boxes: Tensor, anchors: Tensor, weights: Weights = UNIT) -> Tensor:
    """Boxes as deltas from anchors.

    ``(w_x (x_b - x_a) / width_a, w_y (y_b - y_a) / height_a, w_w log(width_b / width_a), w_h log(height_b /
    height_a))`` with centers x, y.

    Args:
        boxes: (..., 4) x1, y1, x2, y2, of positive width and height.
        anchors: (..., 4), likewise.
        weights: One a number; RetinaNet 1, SSD (10, 10, 5, 5).

    Returns:
        Deltas, (..., 4).
    """
    center, size = _center_and_size(boxes)
    anchor_center, anchor_size = _center_and_size(anchors)
    moved, grown = (center - anchor_center) / anchor_size, torch.log(size / anchor_size)
    return torch.cat([moved, grown], -1) * moved.new_tensor(weights)


def decode_deltas(deltas: Tensor, anchors: Tensor, weights: Weights = UNIT) -> Tensor:
    """Boxes of deltas from anchors, the inverse of `encode_deltas`.

    Args:
        deltas: (..., 4).
        anchors: (..., 4) x1, y1, x2, y2.
        weights: Those of the encoding.

    Returns:
        Boxes, (..., 4) x1, y1, x2, y2; at most 62.5 anchors wide and high.
    """
    anchor_center, anchor_size = _center_and_size(anchors.to(deltas))
    moved, grown = (deltas / deltas.new_tensor(weights)).chunk(2, -1)
    center = anchor_center + moved * anchor_size
    half = anchor_size * torch.exp(grown.clamp(max=MOST_GROWTH)) / 2
    return torch.cat([center - half, center + half], -1)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    least, most = boxes.chunk(2, -1)
    return (least + most) / 2, most - least
