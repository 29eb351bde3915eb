"""Random words along an arc, their outlines, and the maps that a perfect network would give for targets."""

import numpy as np
import torch
from hypothesis import strategies as st
from shapely import Polygon
from torch import Tensor


def arc_outline(length, height, bend, angle, num, center=(128.0, 128.0)):
    """Outline (2 * num, 2) of a word along an arc that turns by `bend` radians over its length."""
    along = np.linspace(-0.5, 0.5, num)
    turn = bend if abs(bend) > 1e-3 else 1e-3
    radius = length / turn
    spine = np.stack([radius * np.sin(along * turn), radius * (1 - np.cos(along * turn))], 1)
    normal = np.stack([-np.sin(along * turn), np.cos(along * turn)], 1)
    outline = np.concatenate([spine - height / 2 * normal, (spine + height / 2 * normal)[::-1]])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return outline @ rotation.T + center


words = st.builds(
    arc_outline,
    length=st.floats(70, 160),
    height=st.floats(16, 24),
    bend=st.floats(-1.4, 1.4),
    angle=st.floats(-3.1, 3.1),
    num=st.integers(5, 12),
)


def iou(first, second):
    a, b = (Polygon(np.asarray(points, np.float64)).buffer(0) for points in (first, second))
    return a.intersection(b).area / a.union(b).area


def ideal_maps(targets: dict[str, Tensor], confidence: float = 6.0) -> Tensor:
    def logits(mask: Tensor) -> Tensor:
        return torch.where(mask, confidence, -confidence)

    zeros = torch.zeros_like(targets["sin"])
    text, line = logits(targets["text_region"]), logits(targets["center_line"])
    return torch.stack([zeros, text, zeros, line, targets["sin"], targets["cos"], targets["radius"]], dim=1)
