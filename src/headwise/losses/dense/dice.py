"""The soft Dice loss, whose denominator depends on the output."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headwise.losses.parts.checks import as_probability, check_elements, check_probabilities, select, working_dtype
from headwise.masks import spread_mask
from headwise.ratio import Ratio


def dice(output: Tensor, target: Tensor, mask: Tensor | None = None, *, smooth: float = 1.0) -> Ratio:
    """Soft Dice loss of logits, as the two sums it is the quotient of.

    ``(sum p + sum t - 2 sum p t) / (sum p + sum t + smooth)`` over the masked elements, with
    ``p = sigmoid(output)`` and t the target; that is 1 minus the Dice coefficient. Ratios pool by adding;
    ``smooth`` counts once, after pooling.

    Args:
        output: Logits, any shape, any floating dtype.
        target: Labels (bool or integer 0, 1) or probabilities in [0, 1], of the output's shape.
        mask: What counts, of the output's shape or that without dimension 1, any dtype (positive counts).
        smooth: Added to the denominator, >= 0; keeps an empty picture from a quotient of two small numbers.

    Returns:
        A ratio of two 0-d sums, float32 (float64 for float64 logits).

    Raises:
        ValueError: If a dtype or a shape does not fit, ``smooth`` is negative, or a target that counts is no
            probability (seen on the host; an integer that cannot be seen, on a GPU or compiled, makes the value NaN).

    Reference:
        Milletari et al., V-Net, 3DV 2016, section 3.
    """
    check_elements("dice", output, target, mask)
    check_probabilities("dice", output, target, mask)
    if not 0 <= smooth < math.inf:
        raise ValueError(f"dice: smooth must be at least 0 and finite, found {smooth}. The default is 1.")
    dtype, keep = working_dtype(output), spread_mask(output, mask)
    # A logit of -inf is a probability of 0 with a slope of 0: it leaves no trace in either sum.
    probability = torch.sigmoid(select(keep, output.to(dtype), -torch.inf))
    label = select(keep, as_probability(target, dtype), 0.0)
    both = probability.sum() + label.sum()
    return Ratio(both - 2.0 * (probability * label).sum(), both, smooth)
