"""SSD: the multibox loss over several grids of default boxes.

Outputs ``{"levels": [{"logits": (N, A_l, C + 1), "deltas": (N, A_l, 4)}, ...]}`` (index 0 the background), targets
``{"levels": [{"label": (N, A_l): -1 ignored, 0 background, 1..C, "deltas": (N, A_l, 4)}, ...]}``; all weights are 1.
The total is the plain sum.

================  ==============================  ==============================  ===================================
term              loss                            normalizer                      source
================  ==============================  ==============================  ===================================
classification    multibox_cross_entropy, 3:1     foreground                      paper eq. 3, SSD.compute_loss
box               box_smooth_l1 of positives      count, summed over all levels   paper eq. 2, SSD.compute_loss
================  ==============================  ==============================  ===================================

The background is ranked over all levels of an image, so the classification reads the levels together.

Sources: Liu et al., SSD: single shot multibox detector, ECCV 2016; torchvision 0.29, models/detection/ssd.py.

Differs from torchvision (``as_published=True`` brings it back):

* Where an image has less background than three boxes a positive, torchvision counts positives twice (S1).

As in torchvision, an image without a positive contributes nothing, no background either (S2).
"""

from __future__ import annotations

from functools import partial

from headwise import losses
from headwise.criterion import Criterion, Term
from headwise.presets.detectors.anchor_terms import box_term
from headwise.whole import check_whole


def ssd(num_levels: int = 6, *, as_published: bool = False, ratio: float = 3.0, compile: bool = False) -> Criterion:
    """The criterion of SSD; the card is at the top of this module.

    Args:
        num_levels: How many levels the outputs have (SSD300: 6, SSD512: 7); 1 where all boxes are in one tensor.
        as_published: Reproduce torchvision's values and gradients, the defect included.
        ratio: Background boxes per positive.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms classification, box.

    Raises:
        ValueError: `num_levels` is less than 1.
    """
    check_whole("presets.ssd", num_levels=num_levels)
    loss = losses.published_multibox_cross_entropy if as_published else losses.multibox_cross_entropy
    classification = Term(
        "classification",
        partial(loss, ratio=ratio),
        output=tuple(f"levels[{level}].logits" for level in range(num_levels)),
        target=tuple(f"levels[{level}].label" for level in range(num_levels)),
    )
    return Criterion([classification, box_term()], compile=compile)
