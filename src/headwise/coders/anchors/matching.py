"""Which box an anchor belongs to."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Forced = Literal["none", "ties", "best"]

BACKGROUND = -1
IGNORED = -2
NOWHERE = -1
"""In place of an anchor's number, for a box that meets none."""


def match(
    overlap: Tensor, *, foreground: float, background: float, forced: Forced, keep_at_background: bool = True
) -> Tensor:
    """Gives each anchor the box it overlaps most, if that is enough.

    Args:
        overlap: Intersection over union, (n, A) of n boxes and A anchors.
        foreground: From this overlap on an anchor belongs to its best box.
        background: Below this overlap it is background; between the two it is ignored.
        forced: What is done for boxes that have no anchor so: "none" nothing; "ties" each box's anchors of its highest
            overlap (if not 0) belong to their own best box; "best" the first of them (if not 0) belongs to this box,
            and of two boxes that want one anchor the later gets it.
        keep_at_background: Whether an overlap of exactly `background` is ignored, not background.

    Returns:
        The number of its box, `BACKGROUND` or `IGNORED` an anchor, (A,) int64.

    Raises:
        ValueError: An overlap or `forced` is out of its range.
    """
    check_rule("match", foreground, background, forced)
    num_boxes, num_anchors = overlap.shape
    if num_boxes == 0:
        return torch.full((num_anchors,), BACKGROUND, device=overlap.device)
    most, best = overlap.max(0)
    below = most < background if keep_at_background else most <= background
    matched = torch.where(most >= foreground, best, torch.where(below, BACKGROUND, IGNORED))
    if forced == "none" or num_anchors == 0:
        return matched
    highest, first = overlap.max(1)
    if forced == "ties":
        tied = ((overlap == highest[:, None]) & (highest[:, None] > 0)).any(0)
        return torch.where(tied, best, matched)
    for box, anchor in enumerate(torch.where(highest > 0, first, NOWHERE).tolist()):
        if anchor != NOWHERE:
            matched[anchor] = box
    return matched


def check_rule(what: str, foreground: float, background: float, forced: str) -> None:
    """Refuses a rule by which no anchors can be given away.

    Args:
        what: The function, for the error.
        foreground: As of `match`.
        background: As of `match`.
        forced: As of `match`.

    Raises:
        ValueError: An overlap or `forced` is out of its range.
    """
    if not 0 <= background <= foreground <= 1 or forced not in get_args(Forced):
        raise ValueError(
            f"{what}: needs 0 <= background <= foreground <= 1 and forced 'none', 'ties' or 'best', found "
            f"background {background}, foreground {foreground}, forced {forced!r}."
        )
