"""CornerNet: heat maps, embeddings and offsets of two corners, at each of S stacks.

Outputs ``{"stacks": [{"top_left_heatmap": (N, C, H, W) logits, "top_left_embedding": (N, 1, H, W), "top_left_offset":
(N, 2, H, W), and the same of bottom_right}, ...]}``. All stacks have the same targets: ``top_left_heatmap`` (N, C, H,
W), ``top_left_index`` (N, K), ``top_left_offset`` (N, K, 2), the same of bottom_right, and ``objects`` (N, K). A term's
value is its sum over the stacks; its weight holds the 1 / S.

====================  ==================  ==========  ========  ===============================
term                  loss                normalizer  weight    source
====================  ==================  ==========  ========  ===============================
top_left_heatmap      gaussian_focal      peaks       1 / S     paper eq. 1, losses.py
bottom_right_heatmap  gaussian_focal      peaks       1 / S     paper eq. 1, losses.py
pull                  pull                images      0.1 / S   paper eq. 4, losses.py
push                  push                images      0.1 / S   paper eq. 5, losses.py
top_left_offset       gathered_smooth_l1  count       1 / S     paper eq. 3, losses.py
bottom_right_offset   gathered_smooth_l1  count       1 / S     paper eq. 3, losses.py
====================  ==================  ==========  ========  ===============================

Masks: ``objects`` for embeddings and offsets. As published: published_gaussian_focal over published_peaks,
published_pull and published_push over published_chunks, gathered_smooth_l1 over published_objects: then none of the
terms is invariant to how a batch is split (sums per chunk of a GPU, at least one peak and 1e-4 in each).

Sources: Law and Deng, CornerNet: detecting objects as paired keypoints, ECCV 2018; princeton-vl/CornerNet-Lite at
6a54505d, core/models/py_utils/losses.py.

Differs from the authors' code (``as_published=True`` brings each back, except where they crash or change what they
are given):

* pull and push are means over images; theirs are sums, so that they weigh more the more images a GPU holds (A6, A7).
  Their 0.1 a sum, over 5 images a GPU, is ``pull_weight=0.5, push_weight=0.5`` a mean: pass these to weigh as their
  training did. In general, weight of the mean = weight of the sum * images a GPU.
* An object makes no pair with itself: one object in an image costs no push, theirs 0.9999 (A5).
* No 1e-4 in any count.
* The heat maps' probabilities are not clamped, so the worst mistakes have a gradient (F2).
* A peak that is not exactly 1 is a positive still: at an object's index the highest channel is (F5).
* The count of peaks is at least 1 in a whole step, theirs in every part of it: a step without an object learns from its
  negatives (F4). Counts may be totaled over micro-batches and ranks, see `pool_denominators` (F6).
* Masks of any dtype and value, batches of one image, outputs left as they are, half precision: right numbers, where
  theirs is wrong or crashes (A1 to A4, A8, A9, F1, F3).
"""

from __future__ import annotations

from headwise.criterion import Criterion
from headwise.presets.detectors.corner_terms import CornerWeights, corner_terms


def cornernet(
    num_stacks: int = 2,
    *,
    pull_weight: float = 0.1,
    push_weight: float = 0.1,
    offset_weight: float = 1.0,
    as_published: bool = False,
    compile: bool = False,
) -> Criterion:
    """The criterion of CornerNet; the card is at the top of this module.

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
    weights = CornerWeights(pull_weight, push_weight, offset_weight)
    return Criterion(corner_terms(("top_left", "bottom_right"), num_stacks, weights, as_published), compile=compile)
