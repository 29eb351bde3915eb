"""Losses that compare an output with a target of its shape, element by element.

Their mask has the output's shape, or that shape without dimension 1: then it holds for all channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.parts.checks import as_probability, check_elements, check_probabilities, select, working_dtype
from headwise.losses.parts.fused import fused_sum, is_native
from headwise.masks import spread_mask


@declared(count=normalizers.elements, closed_form=True)
def binary_cross_entropy(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of binary cross entropies of logits against labels or probabilities.

    ``sum over i of mask_i * (max(x_i, 0) - x_i y_i + log(1 + exp(-|x_i|)))``, x the output and y the target.

    Args:
        output: Logits, any shape, any floating dtype.
        target: Labels (bool or integer 0, 1) or probabilities in [0, 1], of the output's shape.
        mask: What counts, of the output's shape or that without dimension 1, any dtype (positive counts).

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits).

    Raises:
        ValueError: If a dtype or a shape does not fit, or a target that counts is no probability (seen on the host; an
            integer that cannot be seen, on a GPU or compiled, makes the value NaN).
    """
    check_elements("binary_cross_entropy", output, target, mask)
    check_probabilities("binary_cross_entropy", output, target, mask)
    return fused_sum(_binary_cross_entropy, _binary_cross_entropy_gradient, output, target, mask)


@declared(count=normalizers.elements, closed_form=True)
def squared_error(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of squared errors, ``sum over i of mask_i * (output_i - target_i)^2``.

    Args:
        output: Values, any shape, any floating dtype.
        target: Values of the output's shape.
        mask: What counts, of the output's shape or that without dimension 1, any dtype (positive counts).

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype or a shape does not fit.
    """
    check_elements("squared_error", output, target, mask)
    if is_native(output, mask):
        return F.mse_loss(*_as_one_dtype(output, target), reduction="sum")
    return fused_sum(_squared_error, _squared_error_gradient, output, target, mask)


@declared(count=normalizers.elements, closed_form=True)
def absolute_error(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of absolute errors, ``sum over i of mask_i * |output_i - target_i|``; the gradient at 0 is 0.

    Args:
        output: Values, any shape, any floating dtype.
        target: Values of the output's shape.
        mask: What counts, of the output's shape or that without dimension 1, any dtype (positive counts).

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype or a shape does not fit.
    """
    check_elements("absolute_error", output, target, mask)
    if is_native(output, mask):
        return F.l1_loss(*_as_one_dtype(output, target), reduction="sum")
    return fused_sum(_absolute_error, _absolute_error_gradient, output, target, mask)


@declared(count=normalizers.elements, closed_form=True)
def smooth_l1(output: Tensor, target: Tensor, mask: Tensor | None = None, *, beta: float = 1.0) -> Tensor:
    """Sum of smooth L1 losses.

    ``sum over i of mask_i * s(output_i - target_i)`` with ``s(d) = d^2 / (2 beta)`` for ``|d| < beta`` and
    ``|d| - beta / 2`` elsewhere.

    Args:
        output: Values, any shape, any floating dtype.
        target: Values of the output's shape.
        mask: What counts, of the output's shape or that without dimension 1, any dtype (positive counts).
        beta: Where the square passes into the line, > 0, in units of the output.

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype or a shape does not fit, or ``beta`` is not positive.

    Reference:
        Girshick, Fast R-CNN, ICCV 2015, equation 3 (beta = 1).
    """
    check_elements("smooth_l1", output, target, mask)
    check_beta("smooth_l1", beta)
    if beta == 1.0 and is_native(output, mask):
        return F.smooth_l1_loss(*_as_one_dtype(output, target), reduction="sum")
    return fused_sum(_smooth_l1, _smooth_l1_gradient, output, target, mask, beta=beta)


def check_beta(loss: str, beta: float) -> None:
    """Asks for a positive, finite ``beta``.

    Args:
        loss: Name of the loss, for the message.
        beta: Where the square passes into the line.

    Raises:
        ValueError: If ``beta`` is not.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"{loss}: beta must be positive and finite, found {beta}. For beta = 0 use absolute_error.")


def smooth_l1_slope(difference: Tensor, beta: float) -> Tensor:
    """Derivative of the smooth L1 loss, ``clamp(d / beta, -1, 1)``."""
    return (difference if beta == 1.0 else difference / beta).clamp(-1.0, 1.0)


def smooth_l1_sum(difference: Tensor, beta: float) -> Tensor:
    """Sum of smooth L1 losses; ``slope * (d - slope * beta / 2)`` holds on both branches."""
    slope = smooth_l1_slope(difference, beta)
    return (slope * (difference - slope * (0.5 * beta))).sum()


def _as_one_dtype(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    dtype = working_dtype(output)
    return output.to(dtype), target.to(dtype)


def _difference(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Output minus target, 0 outside the mask; the subtraction before it is linear, so no NaN gets past."""
    dtype = working_dtype(output)
    return select(spread_mask(output, mask), output.to(dtype) - target.to(dtype), 0.0)


def _squared_error(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    return _difference(output, target, mask).square().sum()


def _squared_error_gradient(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    return 2.0 * _difference(output, target, mask)


def _absolute_error(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    return _difference(output, target, mask).abs().sum()


def _absolute_error_gradient(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    return _difference(output, target, mask).sign()


def _smooth_l1(output: Tensor, target: Tensor, mask: Tensor | None, *, beta: float) -> Tensor:
    return smooth_l1_sum(_difference(output, target, mask), beta)


def _smooth_l1_gradient(output: Tensor, target: Tensor, mask: Tensor | None, *, beta: float) -> Tensor:
    return smooth_l1_slope(_difference(output, target, mask), beta)


def _binary_cross_entropy(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    logits, probability, keep = _logits_and_probability(output, target, mask)
    losses = logits.clamp(min=0.0) - logits * probability + torch.log1p(torch.exp(-logits.abs()))
    return select(keep, losses, 0.0).sum()


def _binary_cross_entropy_gradient(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    logits, probability, keep = _logits_and_probability(output, target, mask)
    return select(keep, torch.sigmoid(logits) - probability, 0.0)


def _logits_and_probability(
    output: Tensor, target: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    dtype, keep = working_dtype(output), spread_mask(output, mask)
    return select(keep, output.to(dtype), 0.0), select(keep, as_probability(target, dtype), 0.0), keep
