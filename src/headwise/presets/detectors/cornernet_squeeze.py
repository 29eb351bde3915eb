"""CornerNet-Squeeze: CornerNet's terms on a coarser grid, at each of S stacks.

Outputs, targets and names are those of CornerNet, on a grid of stride 8. A term's value is its sum over the stacks;
its weight holds the 1 / S.

====================  ==================  ==========  ========  ===============================
term                  loss                normalizer  weight    source
====================  ==================  ==========  ========  ===============================
top_left_heatmap      gaussian_focal      peaks       1 / S     CornerNet eq. 1, losses.py
bottom_right_heatmap  gaussian_focal      peaks       1 / S     CornerNet eq. 1, losses.py
pull                  pull                images      0.1 / S   CornerNet eq. 4, losses.py
push                  push                images      0.1 / S   CornerNet eq. 5, losses.py
top_left_offset       gathered_smooth_l1  count       1 / S     CornerNet eq. 3, losses.py
bottom_right_offset   gathered_smooth_l1  count       1 / S     CornerNet eq. 3, losses.py
====================  ==================  ==========  ========  ===============================

Sources: Law et al., CornerNet-Lite: efficient keypoint based object detection, BMVC 2020; princeton-vl/CornerNet-Lite
at 6a54505d, core/models/py_utils/losses.py.

Differs from the authors' code as the card of CornerNet says, ``as_published=True`` likewise; but here their 0.1 a sum,
over 14 images a GPU, is ``pull_weight=1.4, push_weight=1.4`` a mean over images (A6).
"""

from __future__ import annotations

from headwise.criterion import Criterion
from headwise.presets.detectors.cornernet import cornernet


def cornernet_squeeze(
    num_stacks: int = 2,
    *,
    pull_weight: float = 0.1,
    push_weight: float = 0.1,
    offset_weight: float = 1.0,
    as_published: bool = False,
    compile: bool = False,
) -> Criterion:
    """The criterion of CornerNet-Squeeze; the card is at the top of this module.

    Args:
        num_stacks: How many hourglasses are stacked, each with all six outputs.
        pull_weight: Weight of pull; of a mean over images, or as published of a sum.
        push_weight: Weight of push, likewise.
        offset_weight: Weight of each of the offsets.
        as_published: Reproduce the authors' values and gradients, defects included.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms top_left_heatmap, bottom_right_heatmap, pull, push, top_left_offset,
        bottom_right_offset.

    Raises:
        ValueError: `num_stacks` is less than 1, or a weight is not finite.
    """
    return cornernet(
        num_stacks,
        pull_weight=pull_weight,
        push_weight=push_weight,
        offset_weight=offset_weight,
        as_published=as_published,
        compile=compile,
    )
