"""CornerNet-Saccade: CornerNet's terms on crops, and attention maps of where to crop, at each of S stacks.

Outputs are those of CornerNet, and in each stack ``attention``, a list of logits (N, 1, h, w) for large, medium and
small objects. Targets are those of CornerNet, and ``attention``, the same list of maps of 0 and 1, and
``top_left_valid``, ``bottom_right_valid`` (N, C, H, W). A term's value is its sum over the stacks (attention: and
over the maps); its weight holds the 1 / S.

====================  ==================  ==========  ========  ===============================
term                  loss                normalizer  weight    source
====================  ==================  ==========  ========  ===============================
top_left_heatmap      gaussian_focal      peaks       1 / S     CornerNet eq. 1, losses.py
bottom_right_heatmap  gaussian_focal      peaks       1 / S     CornerNet eq. 1, losses.py
pull                  pull                images      0.1 / S   CornerNet eq. 4, losses.py
push                  push                images      0.1 / S   CornerNet eq. 5, losses.py
top_left_offset       gathered_smooth_l1  count       1 / S     CornerNet eq. 3, losses.py
bottom_right_offset   gathered_smooth_l1  count       1 / S     CornerNet eq. 3, losses.py
attention             gaussian_focal      peaks       1 / S     paper sec. 3, losses.py
====================  ==================  ==========  ========  ===============================

Masks: ``top_left_valid`` and ``bottom_right_valid`` for the heat maps, ``objects`` for embeddings and offsets. Each
attention map is divided by its own peaks.

Sources: Law et al., CornerNet-Lite: efficient keypoint based object detection, BMVC 2020; princeton-vl/CornerNet-Lite
at 6a54505d, core/models/py_utils/losses.py.

Differs from the authors' code as the card of CornerNet says, ``as_published=True`` likewise; their 0.1 a sum, over 12
images a GPU, is ``pull_weight=1.2, push_weight=1.2`` a mean over images (A6). And:

* A peak that is masked is not counted either; theirs leaves it out of the sum alone (F7).
* attention weighs 1 / S; theirs is divided by the stacks twice, ``attention_weight=1 / S`` (F8).
"""

from __future__ import annotations

from headwise import losses
from headwise.criterion import Criterion, Levels, Term
from headwise.presets.detectors.corner_terms import CornerWeights, corner_terms


def cornernet_saccade(
    num_stacks: int = 3,
    *,
    pull_weight: float = 0.1,
    push_weight: float = 0.1,
    offset_weight: float = 1.0,
    attention_weight: float | None = None,
    as_published: bool = False,
    compile: bool = False,
) -> Criterion:
    """The criterion of CornerNet-Saccade; the card is at the top of this module.

    Args:
        num_stacks: How many hourglasses are stacked, each with all seven outputs.
        pull_weight: Weight of pull; of a mean over images, or as published of a sum.
        push_weight: Weight of push, likewise.
        offset_weight: Weight of each of the offsets.
        attention_weight: Weight of attention, of the mean over stacks; by default 1, or as published ``1 / S``.
        as_published: Reproduce the authors' values and gradients, defects included.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms of CornerNet and attention.

    Raises:
        ValueError: `num_stacks` is less than 1, or a weight is not finite.
    """
    weights = CornerWeights(pull_weight, push_weight, offset_weight)
    points = ("top_left", "bottom_right")
    masks = {point: f"{point}_valid" for point in points}
    terms = corner_terms(points, num_stacks, weights, as_published, masks)
    if attention_weight is None:
        attention_weight = 1 / num_stacks if as_published else 1.0
    return Criterion([*terms, _attention(attention_weight / num_stacks, as_published)], compile=compile)


def _attention(weight: float, as_published: bool) -> Term:
    loss = losses.published_gaussian_focal if as_published else losses.gaussian_focal
    return Term(
        "attention",
        loss,
        output="stacks[*].attention[*]",
        target="attention[*]",
        weight=weight,
        levels=Levels(),
    )
