"""What the detectors with anchors share: the boxes' offsets, over all levels."""

from __future__ import annotations

from headwise import losses, normalizers
from headwise.criterion import Levels, Term


def box_term() -> Term:
    """The term of the offsets of those anchors that hold an object, a mean over these."""
    return Term(
        "box",
        losses.box_smooth_l1,
        normalizers.count,
        output="levels[*].deltas",
        target="levels[*].deltas",
        mask="levels[*].label",
        levels=Levels(pool="all"),
    )
