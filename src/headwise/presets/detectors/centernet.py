"""CenterNet (keypoint triplets): CornerNet's terms, and heat maps and offsets of centers, at each of S stacks.

Outputs and targets are those of CornerNet, and ``center_heatmap`` and ``center_offset`` in both, ``center_index`` in
the targets; a center has no embedding. A term's value is its sum over the stacks; its weight holds the 1 / S.

====================  ==================  ==========  ========  ===============================
term                  loss                normalizer  weight    source
====================  ==================  ==========  ========  ===============================
top_left_heatmap      gaussian_focal      peaks       1 / S     paper eq. 3, kp.py
bottom_right_heatmap  gaussian_focal      peaks       1 / S     paper eq. 3, kp.py
center_heatmap        gaussian_focal      peaks       1 / S     paper eq. 3, kp.py
pull                  pull                images      0.1 / S   paper eq. 3, kp.py
push                  push                images      0.1 / S   paper eq. 3, kp.py
top_left_offset       gathered_smooth_l1  count       1 / S     paper eq. 3, kp.py
bottom_right_offset   gathered_smooth_l1  count       1 / S     paper eq. 3, kp.py
center_offset         gathered_smooth_l1  count       1 / S     paper eq. 3, kp.py
====================  ==================  ==========  ========  ===============================

Sources: Duan et al., CenterNet: keypoint triplets for object detection, ICCV 2019; Duankaiwen/CenterNet at 3ad3a106,
models/py_utils/kp.py, kp_utils.py.

Differs from the authors' code as the card of CornerNet says, ``as_published=True`` likewise; but here their 0.1 a sum,
over 6 images a GPU, is ``pull_weight=0.6, push_weight=0.6`` a mean over images (A6). Their network gathers embeddings
and offsets at the objects itself; here the losses do, from whole maps.
"""

from __future__ import annotations

from headwise.criterion import Criterion
from headwise.presets.detectors.corner_terms import CornerWeights, corner_terms


def centernet(
    num_stacks: int = 2,
    *,
    pull_weight: float = 0.1,
    push_weight: float = 0.1,
    offset_weight: float = 1.0,
    as_published: bool = False,
    compile: bool = False,
) -> Criterion:
    """The criterion of CenterNet; the card is at the top of this module.

    Args:
        num_stacks: How many hourglasses are stacked, each with all eight outputs.
        pull_weight: Weight of pull; of a mean over images, or as published of a sum.
        push_weight: Weight of push, likewise.
        offset_weight: Weight of each of the offsets.
        as_published: Reproduce the authors' values and gradients, defects included.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms top_left_heatmap, bottom_right_heatmap, center_heatmap, pull, push,
        top_left_offset, bottom_right_offset, center_offset.

    Raises:
        ValueError: `num_stacks` is less than 1, or a weight is not finite.
    """
    weights = CornerWeights(pull_weight, push_weight, offset_weight)
    points = ("top_left", "bottom_right", "center")
    return Criterion(corner_terms(points, num_stacks, weights, as_published), compile=compile)
