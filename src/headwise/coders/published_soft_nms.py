"""The authors' soft suppression as it runs: one table changed in place, with what it leaves behind."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise.coders.soft_nms import Suppression, overlaps

NUM_MOVED = 5  # columns that move with a box: x1, y1, x2, y2, score. The corners' scores stay behind


def published_soft_nms(rows: Tensor, rule: Suppression | None = None) -> tuple[Tensor, int]:
    """Suppress the boxes of one class as the authors' code does.

    The best remaining box is swapped to the front; a box that falls under the threshold is overwritten by the last
    row, which stays where it is. What follows the kept rows is therefore stale, and CornerNet and CenterNet report it.
    Only box and score move, so that boxes are merged by the corners' scores of other rows.

    Args:
        rows: (n, 5) x1, y1, x2, y2, score, or (n, 7) with the scores of both corners, read where boxes are merged.
        rule: How scores fall; None: ``Suppression(plus_one=True)``, as published.

    Returns:
        The table (n, 5 or 7) float32 as it ends up, and how many of its first rows are kept.

    Raises:
        ValueError: If the table has another shape, or lacks the corners' scores where boxes are merged.

    Reference:
        princeton-vl/CornerNet-Lite at 6a54505d, core/external/nms.pyx, ``soft_nms`` and ``soft_nms_merge``.
    """
    rule = rule or Suppression(plus_one=True)
    widths = (7,) if rule.weight_exponent is not None else (5, 7)
    if rows.ndim != 2 or rows.shape[1] not in widths:
        raise ValueError(f"published_soft_nms: rows must be (n, {' or '.join(map(str, widths))}), found {rows.shape}.")
    rows = rows.detach().to("cpu", torch.float32, copy=True)
    remaining = len(rows)
    for front in range(len(rows)):
        if front >= remaining:
            break
        best = front + int(rows[front:remaining, 4].argmax())
        rows[[front, best], :NUM_MOVED] = rows[[best, front], :NUM_MOVED]
        remaining = _lower_others(rows, front, remaining, rule)
    return rows, remaining


def _lower_others(rows: Tensor, front: int, remaining: int, rule: Suppression) -> int:
    """Lowers, and drops, the rows behind ``front``; returns how many rows remain."""
    boxes = rows[:, :4].clone()
    overlap = overlaps(boxes[front], boxes, rule.plus_one)
    weight = rule.weight(overlap)
    source = list(range(len(rows)))  # where the box at each position stood when the overlaps were taken
    merged = [(front, front, 1.0)]
    position = front + 1
    while position < remaining:
        now = source[position]
        if overlap[now] > 0:
            merged.append((position, now, float(1 - weight[now])))
            rows[position, 4] *= weight[now]
            if rows[position, 4] < rule.score_threshold:
                remaining -= 1
                rows[position, :NUM_MOVED] = rows[remaining, :NUM_MOVED]
                source[position] = source[remaining]
                continue
        position += 1
    if rule.weight_exponent is not None:
        rows[front, :4] = _merge(boxes, rows[:, 5:], merged, rule.weight_exponent)
    return remaining


def _merge(boxes: Tensor, corner_scores: Tensor, merged: list[tuple[int, int, float]], exponent: float) -> Tensor:
    """The mean of the boxes that stood at a source, weighed by the corners' scores at the position they had come to."""
    positions, sources, unweighted = zip(*merged, strict=True)
    shares = torch.tensor(unweighted, dtype=corner_scores.dtype) ** exponent
    weights = corner_scores[list(positions)][:, [0, 0, 1, 1]] * shares[:, None]
    return (boxes[list(sources)] * weights).sum(0) / weights.sum(0)
