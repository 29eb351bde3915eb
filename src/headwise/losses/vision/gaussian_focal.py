"""CornerNet's focal loss over heat maps with a Gaussian bump at every object."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.dense.cross_entropy import margin_losses
from headwise.losses.parts.checks import check_elements, select, working_dtype
from headwise.losses.parts.fused import Patch, fused_sum
from headwise.losses.vision.gathered import check_index
from headwise.masks import LowPeaks, ordered, spread_mask

# The authors keep probabilities this far from 0 and 1.
_CLAMP = 1e-4


@declared(count=normalizers.peaks, shared=("tolerance",), least=1.0, closed_form=True)
def gaussian_focal(
    output: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    index: Tensor | None = None,
    objects: Tensor | None = None,
    alpha: float = 2.0,
    beta: float = 4.0,
    tolerance: float = 0.0,
) -> Tensor:
    """Sum of focal losses of heat map logits, negatives near a peak counting less.

    With p the sigmoid of a logit and y its target: ``-(1 - p)^alpha log p`` at a positive,
    ``-(1 - y)^beta p^alpha log(1 - p)`` elsewhere. Positives are where ``y >= 1 - tolerance`` and, given ``index``,
    also where the target is highest among the channels at an object, however low a resized peak has become; where
    several objects share a place, in every channel that has a peak there (no neighbor is higher). Divide by
    `normalizers.peaks` of the same arguments.

    Both logarithms are taken from the logit, so that values and gradients hold wherever p rounds to 0 or 1.

    Args:
        output: Logits, (N, C, H, W), any floating dtype. (Without ``index``, any shape.)
        target: Heat maps in [0, 1], of the output's shape; what exceeds 1 is a positive too.
        mask: What counts, of the output's shape or that without dimension 1, any dtype (positive counts).
        index: Where the objects are, (N, K), integer, ``y * W + x``.
        objects: Which of the K slots hold an object, (N, K), any dtype (positive holds); None: all.
        alpha: Power of the wrong class's probability, >= 0.
        beta: Power of one minus the target, >= 0.
        tolerance: How far below 1 a target is still a positive, in [0, 1).

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits).

    Raises:
        ValueError: If a dtype, a shape or a hyper-parameter does not fit.

    Reference:
        Law and Deng, CornerNet, ECCV 2018, equation 1; princeton-vl/CornerNet-Lite at 6a54505d,
        core/models/py_utils/losses.py.

    Differs:
        No clamp of the probabilities, the output is left as it is, and positives need not be exactly 1; see
        `published_gaussian_focal`.
    """
    check_elements("gaussian_focal", output, target, mask)
    if not (0 <= alpha < math.inf and 0 <= beta < math.inf and 0 <= tolerance < 1):
        raise ValueError(
            "gaussian_focal: alpha and beta are at least 0 and finite, and tolerance is in [0, 1); found "
            f"alpha={alpha}, beta={beta}, tolerance={tolerance}. The paper has 2, 4 and 0."
        )
    target, least, patch = ordered(target), 1 - tolerance, None
    if index is not None:
        check_index("gaussian_focal", output, index, objects)
        peaks = LowPeaks.of(target, index, objects, mask, least)
        patch = Patch(peaks.place, peaks.target, torch.ones_like(peaks.target), peaks.low)
    return fused_sum(_focal, _focal_gradient, output, target, mask, patch=patch, alpha=alpha, beta=beta, least=least)


@declared(count=normalizers.published_peaks, closed_form=True)
def published_gaussian_focal(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of focal losses of probabilities that are clamped to [1e-4, 1 - 1e-4], alpha = 2 and beta = 4.

    The gradient is 0 where the clamp holds, so the worst positives and negatives teach nothing. Positives are
    where the target is exactly 1; a target above 1 counts as nothing. Divided by `normalizers.published_peaks`.

    Args:
        output: Logits, any shape, any floating dtype; computed in float32 at least, where theirs keeps half precision
            and becomes infinite.
        target: Heat maps, of the output's shape.
        mask: What counts, of the output's shape or that without dimension 1, any dtype (positive counts).

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits).

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        princeton-vl/CornerNet-Lite at 6a54505d, core/models/py_utils/losses.py.
    """
    check_elements("published_gaussian_focal", output, target, mask)
    return fused_sum(_published_focal, _published_focal_gradient, output, ordered(target), mask)


def _power(base: Tensor, exponent: float) -> Tensor:
    """``base ** exponent``; squares are several times faster than the fourth power."""
    return base.square().square() if exponent == 4 else base.pow(exponent)


def _margin_and_weight(
    output: Tensor, target: Tensor, positive: Tensor, mask: Tensor | None, beta: float
) -> tuple[Tensor, Tensor]:
    """The logit of the wrong class, and what its loss weighs; 0 and 0 outside the mask."""
    dtype, keep = working_dtype(output), spread_mask(output, mask)
    logits = select(keep, output.to(dtype), 0.0)
    weight = torch.where(positive, 1.0, _power(1.0 - target.to(dtype), beta))
    return torch.where(positive, -logits, logits), select(keep, weight, 0.0)


def _focal(output: Tensor, target: Tensor, mask: Tensor | None, *, alpha: float, beta: float, least: float) -> Tensor:
    margin, weight = _margin_and_weight(output, target, target >= least, mask, beta)
    return (weight * _power(torch.sigmoid(margin), alpha) * margin_losses(margin)).sum()


def _focal_gradient(
    output: Tensor, target: Tensor, mask: Tensor | None, *, alpha: float, beta: float, least: float
) -> Tensor:
    positive = target >= least
    margin, weight = _margin_and_weight(output, target, positive, mask, beta)
    wrong = torch.sigmoid(margin)
    slope = weight * _power(wrong, alpha) * (alpha * torch.sigmoid(-margin) * margin_losses(margin) + wrong)
    return torch.where(positive, -slope, slope)


def _published_parts(output: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positives, weights, the wrong class's clamped probability, and where the clamp lets a gradient through."""
    positive = target == 1
    margin, weight = _margin_and_weight(output, target, positive, mask, 4.0)
    wrong = torch.sigmoid(margin)
    passes = (wrong >= _CLAMP) & (wrong <= 1 - _CLAMP)
    return positive, torch.where(target > 1, 0.0, weight), wrong.clamp(_CLAMP, 1 - _CLAMP), passes


def _published_focal(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    _, weight, wrong, _ = _published_parts(output, target, mask)
    return -(weight * wrong.square() * torch.log(1 - wrong)).sum()


def _published_focal_gradient(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    positive, weight, wrong, passes = _published_parts(output, target, mask)
    slope = weight * wrong.square() * (wrong - 2.0 * (1 - wrong) * torch.log(1 - wrong))
    return torch.where(passes, torch.where(positive, -slope, slope), 0.0)
