"""Soft non-maximum suppression, once for all detectors: overlapping boxes lose score rather than their place.

Plain hard suppression without merging is torchvision's ``batched_nms``; ``hard`` stands here for merging and for the
authors' areas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Method = Literal["exponential", "linear", "hard"]


@dataclass(frozen=True)
class Suppression:
    """How boxes of one class suppress one another.

    With the overlap o of a box and a better one, its score is multiplied by exp(-o^2 / sigma) (``exponential``), by
    1 - o where o > ``iou_threshold`` (``linear``), or by 0 there (``hard``).

    Args:
        method: The weight.
        sigma: Width of the exponential, > 0.
        iou_threshold: Overlap over which linear and hard suppression act, in [0, 1].
        score_threshold: A box whose score falls under it through an overlap is dropped, >= 0.
        plus_one: Sides are x2 - x1 + 1, as where coordinates are indices of pixels, not edges.
        weight_exponent: Merge each kept box with those that it suppresses, each weighed by
            (1 - weight)^``weight_exponent`` and by the score of the corner; None keeps boxes as they are.

    Raises:
        ValueError: If an option is out of its range.
    """

    method: Method = "exponential"
    sigma: float = 0.5
    iou_threshold: float = 0.5
    score_threshold: float = 0.001
    plus_one: bool = False
    weight_exponent: float | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"Suppression: method must be one of {get_args(Method)}, found {self.method!r}.")
        ranges = {
            "sigma": (self.sigma, 0 < self.sigma < math.inf, "> 0"),
            "iou_threshold": (self.iou_threshold, 0 <= self.iou_threshold <= 1, "in [0, 1]"),
            "score_threshold": (self.score_threshold, 0 <= self.score_threshold < math.inf, ">= 0"),
            "weight_exponent": (self.weight_exponent, self.weight_exponent is None or self.weight_exponent > 0, "> 0"),
        }
        for name, (value, fits, rule) in ranges.items():
            if not fits:
                raise ValueError(f"Suppression: {name} must be {rule}, found {value!r}.")

    def weight(self, overlap: Tensor) -> Tensor:
        """The factor of a score at each overlap."""
        if self.method == "exponential":
            return torch.exp(-(overlap**2) / self.sigma)
        factor = 1 - overlap if self.method == "linear" else torch.zeros_like(overlap)
        return torch.where(overlap > self.iou_threshold, factor, 1.0)


class Kept(NamedTuple):
    """Boxes that remain, best first: rows of the input (m,), their new scores (m,), their boxes (m, 4)."""

    rows: Tensor
    scores: Tensor
    boxes: Tensor


@torch.no_grad()
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None = None,
    *,
    rule: Suppression | None = None,
    corner_scores: Tensor | None = None,
) -> Kept:
    """Take the best box of each class, lower the scores of those that overlap it, and so on.

    All classes go side by side, so the number of rounds is the size of the largest class.

    Args:
        boxes: (n, 4) x1, y1, x2, y2.
        scores: (n,), >= 0.
        labels: (n,) classes; boxes of different classes never meet. None: one class.
        rule: How scores fall; None: ``Suppression()``.
        corner_scores: (n, 2) scores of the top-left and the bottom-right corner; read where boxes are merged.

    Returns:
        The boxes that remain. With ``weight_exponent``, each box's left top is the mean of its own and those of all
        boxes it met, weighed by (1 - weight)^exponent times the top-left score; its right bottom likewise.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, a score is below 0, or ``corner_scores`` lack where
            boxes are merged.

    Reference:
        Bodla et al., Soft-NMS, ICCV 2017, equations 2 and 3; the merging of princeton-vl/CornerNet-Lite at 6a54505d,
        core/external/nms.pyx.

    Differs:
        Dropped boxes are not returned (the authors' callers read them), sides are x2 - x1 unless ``plus_one``, and a
        box is merged by its own corners' scores. `published_soft_nms` is the authors' table, row by row.
    """
    rule = rule or Suppression()
    _check(boxes, scores, labels, corner_scores, rule)
    dtype = torch.promote_types(boxes.dtype, torch.float32)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    layout = _rows_by_class(torch.zeros_like(scores, dtype=torch.long) if labels is None else labels)
    table = _Remaining(boxes, scores, corner_scores, layout)
    for _ in range(layout.shape[1]):
        if not table.take_best(rule):
            break
    order = table.kept.argsort(descending=True, stable=True)
    kept = order[table.kept[order] > -torch.inf]
    return Kept(kept, table.kept[kept], table.merged[kept])


def overlaps(box: Tensor, boxes: Tensor, plus_one: bool = False) -> Tensor:
    """Intersection over union of ``box`` (..., 1, 4) and ``boxes`` (..., n, 4), as (..., n)."""
    one = float(plus_one)
    sides = torch.minimum(box[..., 2:], boxes[..., 2:]) - torch.maximum(box[..., :2], boxes[..., :2]) + one
    shared = sides.clamp(min=0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2] + one).prod(-1) for each in (box, boxes)]
    return torch.where(shared > 0, shared / (areas[0] + areas[1] - shared), 0.0)


class _Remaining:
    """Boxes laid out as (classes, most boxes of a class), and what is left of their scores."""

    def __init__(self, boxes: Tensor, scores: Tensor, corner_scores: Tensor | None, rows: Tensor) -> None:
        filled = rows >= 0
        self.rows, self.boxes = rows, boxes[rows.clamp(min=0)]
        self.scores = torch.where(filled, scores[rows.clamp(min=0)], -torch.inf)
        self.corner_scores = None if corner_scores is None else corner_scores.to(scores)[rows.clamp(min=0)]
        self.kept, self.merged = torch.full_like(scores, -torch.inf), boxes.clone()

    def take_best(self, rule: Suppression) -> bool:
        """One round of every class that still has a box. False if none has."""
        top, best = self.scores.max(1)
        classes = (top > -torch.inf).nonzero().flatten()
        best = best[classes]
        taken = self.rows[classes, best]
        self.kept[taken] = top[classes]
        self.scores[classes, best] = -torch.inf
        boxes, scores = self.boxes[classes], self.scores[classes]
        overlap = overlaps(self.boxes[classes, best].unsqueeze(1), boxes, rule.plus_one)
        weight, left = rule.weight(overlap), scores > -torch.inf
        if rule.weight_exponent is not None and self.corner_scores is not None:
            share = torch.where(left, (1 - weight) ** rule.weight_exponent, 0.0)
            share[torch.arange(len(classes), device=best.device), best] = 1.0
            self.merged[taken] = _weighted_boxes(boxes, self.corner_scores[classes], share)
        lowered = torch.where(left, scores * weight, scores)
        dropped = (overlap > 0) & (lowered < rule.score_threshold)
        self.scores[classes] = torch.where(dropped, -torch.inf, lowered)
        return len(classes) > 0


def _weighted_boxes(boxes: Tensor, corner_scores: Tensor, share: Tensor) -> Tensor:
    """Means of (g, m, 4) boxes over m, each corner weighed by its score times the share: (g, 4)."""
    weights = (corner_scores * share.unsqueeze(-1)).repeat_interleave(2, dim=-1)
    # Corners that all score 0 weigh the same.
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, share.unsqueeze(-1))
    return (boxes * weights).sum(1) / weights.sum(1)


def _rows_by_class(labels: Tensor) -> Tensor:
    """(classes, most boxes of a class) rows of each class in their order, -1 where a class has fewer."""
    _, group, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    place = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[group[order]]
    rows: Tensor = order.new_full((len(counts), int(counts.max()) if len(counts) else 0), -1)
    rows[group[order], place] = order
    return rows


def _check(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, corner_scores: Tensor | None, rule: Suppression
) -> None:
    num = scores.shape[:1]
    shapes = {"boxes": (boxes, (*num, 4)), "scores": (scores, num), "labels": (labels, num)}
    shapes["corner_scores"] = (corner_scores, (*num, 2))
    for name, (values, shape) in shapes.items():
        if values is not None and values.shape != shape:
            raise ValueError(f"soft_nms: {name} must have shape {tuple(shape)}, found {tuple(values.shape)}.")
        if values is not None and not bool(torch.isfinite(values).all()):
            raise ValueError(f"soft_nms: {name} hold a value that is not finite. Drop such boxes first.")
    if (scores < 0).any():
        raise ValueError(f"soft_nms: scores are at least 0, found {float(scores.min()):g}. Pass probabilities.")
    if rule.weight_exponent is not None and corner_scores is None:
        raise ValueError("soft_nms: merging weighs boxes by the scores of their corners. Pass corner_scores.")
