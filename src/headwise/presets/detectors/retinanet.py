"""RetinaNet: two losses over a feature pyramid.

Outputs ``{"levels": [{"logits": (N, A_l, C), "deltas": (N, A_l, 4)}, ...]}``, targets ``{"levels": [{"label":
(N, A_l): -1 ignored, 0 background, 1..C, "deltas": (N, A_l, 4)}, ...]}``; all weights are 1. The total is the sum.

================  ==========================  ==================================  ===================================
term              loss                        normalizer                          source
================  ==========================  ==================================  ===================================
classification    sigmoid_focal               positive, summed over all levels,   paper eq. 5
                  (focal="shifted":           at least 1                          paper appendix A, loss.py
                  shifted_focal)                                                  focal_loss_alt
box               box_smooth_l1 of positives  count, summed over all levels       paper section 4, loss.py
================  ==========================  ==================================  ===================================

Options: alpha 0.25, gamma 2, beta 1 (of the shifted form). A level's value is its part of the sum over all levels.

Sources: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017; kuangliu/pytorch-retinanet at 2d7c6633, loss.py.

Differs from the authors' code (``as_published=True`` selects the loss that it trains, with their values and gradients
wherever theirs are finite):

* The default is the paper's focal loss; theirs trains the shifted form, under the name of the other (R5).
* A step without a positive anchor has the losses of its background, divided by 1, and is 0 if all anchors are ignored;
  theirs is infinite, or NaN (R2).
* Logits of any size; theirs is infinite from a wrong logit of 45 on, in float32 (R3).
* The plain focal loss has a gradient; theirs raises (R4). Labels stay on their device; theirs go to the host (R11).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from headwise import losses, normalizers
from headwise.criterion import Criterion, Levels, Term
from headwise.presets.detectors.anchor_terms import box_term


def retinanet(
    *,
    focal: Literal["sigmoid", "shifted"] | None = None,
    as_published: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    beta: float = 1.0,
    compile: bool = False,
) -> Criterion:
    """The criterion of RetinaNet; the card is at the top of this module.

    Args:
        focal: "sigmoid" for the paper's focal loss, "shifted" for the form the repository trains; None is "shifted"
            as published, else "sigmoid".
        as_published: Reproduce the repository's values and gradients.
        alpha: Weight of an anchor's class against the other classes.
        gamma: How fast anchors that are right lose weight.
        beta: Shift of the shifted form.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms classification, box.

    Raises:
        ValueError: `focal` is unknown, or "sigmoid" is asked for as published.
    """
    if focal not in (None, "sigmoid", "shifted") or (as_published and focal == "sigmoid"):
        raise ValueError(
            f"presets.retinanet: focal is 'sigmoid' or 'shifted', and 'shifted' as published; found {focal!r}"
        )
    shifted = as_published or focal == "shifted"
    classification = Term(
        "classification",
        partial(losses.shifted_focal, alpha=alpha, gamma=gamma, beta=beta)
        if shifted
        else partial(losses.sigmoid_focal, alpha=alpha, gamma=gamma),
        normalizers.positive,
        output="levels[*].logits",
        target="levels[*].label",
        levels=Levels(pool="all", least=1.0),
    )
    return Criterion([classification, box_term()], compile=compile)
