"""Focal losses of dense detectors: anchors that are right already count little."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.parts.checks import check_output, working_dtype
from headwise.losses.parts.fused import fused_sum
from headwise.masks import as_mask

_ALL_RIGHT = -1e4  # a margin whose sigmoid and softplus are exactly 0 in float32 and float64
_ARTANH = tuple(2 / odd for odd in range(1, 15, 2))  # 2 artanh(s) / s in powers of s^2, to 2e-8 where s <= 1 / 3


@declared(count=normalizers.positive, least=1.0, closed_form=True)
def sigmoid_focal(
    output: Tensor, target: Tensor, mask: Tensor | None = None, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sum of focal losses of independent classes.

    ``sum over anchors i that count, classes c of a_t (1 - p_t)^gamma * -log p_t`` with ``p_t = sigmoid(x)`` and
    ``a_t = alpha`` where c is the anchor's class, ``1 - sigmoid(x)`` and ``1 - alpha`` elsewhere; x the output.

    Args:
        output: Logits, (N, A, C), any floating dtype; no channel for the background.
        target: Labels, (N, A), integer: negative ignored, 0 background, 1..C the classes. A label above C makes
            the value NaN.
        mask: What counts, (N, A), any dtype (positive counts); None counts all anchors but the ignored.
        alpha: Weight of an anchor's class against the other classes, in [0, 1].
        gamma: How fast anchors that are right lose weight, >= 0; 0 is the cross entropy.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits). Divide by the number of positives,
        `normalizers.positive`.

    Raises:
        ValueError: If a dtype or a shape does not fit, or an option is out of its range.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 5; equal to
        torchvision.ops.sigmoid_focal_loss of one-hot labels.
    """
    _check("sigmoid_focal", output, target, mask, alpha)
    if not 0 <= gamma < math.inf:
        raise ValueError(f"sigmoid_focal: gamma must be at least 0 and finite, found {gamma}. The paper's value is 2.")
    return fused_sum(_focal_value, _focal_gradient, output, *_columns(target, mask), alpha=alpha, gamma=gamma)


@declared(count=normalizers.positive, least=1.0, closed_form=True)
def shifted_focal(
    output: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    beta: float = 1.0,
) -> Tensor:
    """Sum of shifted focal losses (FL*) of independent classes.

    ``sum over anchors i that count, classes c of a_t / gamma * -log sigmoid(gamma x_t + beta)`` with ``x_t = x`` and
    ``a_t = alpha`` where c is the anchor's class, ``-x`` and ``1 - alpha`` elsewhere; x the output.

    Args:
        output: Logits, (N, A, C), any floating dtype; no channel for the background.
        target: Labels, (N, A), integer: negative ignored, 0 background, 1..C the classes. A label above C makes
            the value NaN.
        mask: What counts, (N, A), any dtype (positive counts); None counts all anchors but the ignored.
        alpha: Weight of an anchor's class against the other classes, in [0, 1].
        gamma: Steepness, > 0.
        beta: Shift: the larger, the less an anchor counts that is right already.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits). Divide by the number of positives,
        `normalizers.positive`.

    Raises:
        ValueError: If a dtype or a shape does not fit, or an option is out of its range.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, appendix A;
        kuangliu/pytorch-retinanet at 2d7c6633, loss.py, focal_loss_alt.

    Differs:
        The original takes the logarithm of a sigmoid that has become 0: infinite from a wrong logit of 45 on, in
        float32.
    """
    _check("shifted_focal", output, target, mask, alpha)
    if not (0 < gamma < math.inf and math.isfinite(beta)):
        raise ValueError(
            f"shifted_focal: gamma must be positive and beta a number, both finite, found {gamma} and {beta}. The "
            "published values are 2 and 1."
        )
    columns = _columns(target, mask)
    return fused_sum(_shifted_value, _shifted_gradient, output, *columns, alpha=alpha, gamma=gamma, beta=beta)


def _check(loss: str, output: Tensor, target: Tensor, mask: Tensor | None, alpha: float) -> None:
    check_output(loss, output, target, mask)
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(
            f"{loss}: labels must be integer (negative ignored, 0 background, 1..C), found {target.dtype}. "
            "Convert them with target.long()."
        )
    if output.ndim < 2 or output.shape[:-1] != target.shape:
        raise ValueError(
            f"{loss}: logits of shape (N, A, C) need labels of shape (N, A), found logits {tuple(output.shape)} and "
            f"labels {tuple(target.shape)}. Move the classes last, and pass labels, not one-hot vectors."
        )
    if mask is not None and mask.shape != target.shape:
        raise ValueError(
            f"{loss}: the mask must have the labels' shape {tuple(target.shape)}, found {tuple(mask.shape)}. "
            "Give one value an anchor."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"{loss}: alpha must be in [0, 1], found {alpha}. The published value is 0.25.")


def _columns(target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """As (N, A, 1), so that anchors are rows in logits, labels and mask alike; labels wide enough for -1 and any C."""
    label = target if target.dtype in (torch.int32, torch.int64) else target.long()
    return label.unsqueeze(-1), None if mask is None else mask.unsqueeze(-1)


def _focal_value(output: Tensor, target: Tensor, mask: Tensor | None, *, alpha: float, gamma: float) -> Tensor:
    margin, sign, label = _signed(output, target, mask)
    wrong = torch.sigmoid(margin)
    losses = _modulation(wrong, gamma) * _softplus(margin, wrong) * _balance(sign, alpha)
    return _summed(losses) + _unknown_labels(output, label)


def _focal_gradient(output: Tensor, target: Tensor, mask: Tensor | None, *, alpha: float, gamma: float) -> Tensor:
    margin, sign, _ = _signed(output, target, mask)
    wrong = torch.sigmoid(margin)
    # d/dm of q^gamma softplus(m), where q = sigmoid(m) and dq/dm = q (1 - q).
    right = 1 - wrong if torch.compiler.is_compiling() else torch.sigmoid(-margin)
    slope = _modulation(wrong, gamma) * (wrong + gamma * right * _softplus(margin, wrong))
    return slope * (_balance(sign, alpha) * sign)


def _shifted_value(
    output: Tensor, target: Tensor, mask: Tensor | None, *, alpha: float, gamma: float, beta: float
) -> Tensor:
    margin, sign, label = _signed(output, target, mask)
    shifted = gamma * margin - beta
    losses = _softplus(shifted, torch.sigmoid(shifted)) * (_balance(sign, alpha) / gamma)
    return _summed(losses) + _unknown_labels(output, label)


def _shifted_gradient(
    output: Tensor, target: Tensor, mask: Tensor | None, *, alpha: float, gamma: float, beta: float
) -> Tensor:
    margin, sign, _ = _signed(output, target, mask)
    slope = torch.sigmoid(gamma * margin - beta)
    return slope * (_balance(sign, alpha) * sign)


def _summed(losses: Tensor) -> Tensor:
    if torch.compiler.is_compiling() and losses.is_cuda:
        # By anchors: Inductor splits one sum of all across them, by a kernel that is several times slower, or adds half
        # a million numbers one after another (4e-4 off). Of 80 classes 16 at once: its blocks are powers of two, and
        # what one does not fill, idles (0.18 ms without, 0.09 with, for 46 million logits on an H100).
        num_classes = losses.shape[-1]
        width = next((width for width in (64, 32, 16, 8) if num_classes % width == 0), num_classes)
        losses = losses.reshape(*losses.shape[:-1], num_classes // width, width).sum(-1)
    return losses.sum()


def _signed(output: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Margins (the larger the more wrong), their signs, and the labels of anchors, -1 where one does not count.

    What does not count has a margin at which value and gradient are exactly 0, so nothing after it needs a mask.
    """
    keep = target >= 0
    if mask is not None:
        keep = keep & as_mask(mask)
    label = torch.where(keep, target, -1)
    logits = torch.where(keep, output.to(working_dtype(output)), _ALL_RIGHT)
    sign = _signs(logits, label)
    return logits * sign, sign, label


def _signs(logits: Tensor, label: Tensor) -> Tensor:
    """-1 at each anchor's class, 1 elsewhere."""
    num_classes = logits.shape[-1]
    if torch.compiler.is_compiling() or num_classes == 0:
        # Arithmetic on floats, for comparisons of integers and choices are what compilers do not vectorize well.
        classes = torch.arange(1, num_classes + 1, device=label.device, dtype=logits.dtype)
        return ((label.to(logits.dtype) - classes).abs() * 2 - 1).clamp(max=1.0)
    # One place an anchor is written, where a comparison would look at each of its classes.
    named = (label > 0) & (label <= num_classes)
    sign = torch.where(named, -1.0, 1.0).to(logits.dtype)
    return torch.ones_like(logits).scatter(-1, (label.long() - 1).clamp(0, num_classes - 1), sign)


def _balance(sign: Tensor, alpha: float) -> Tensor:
    """``alpha`` at each anchor's class, ``1 - alpha`` elsewhere."""
    return torch.add(0.5, sign, alpha=0.5 - alpha)


def _modulation(wrong: Tensor, gamma: float) -> Tensor:
    """``q^gamma``; a root is kept off 0, where its slope is infinite."""
    if 0 < gamma < 1:
        wrong = wrong.clamp(min=torch.finfo(wrong.dtype).tiny)
    return wrong.pow(gamma)


def _softplus(value: Tensor, sigmoid: Tensor) -> Tensor:
    """``log(1 + exp(value))``, to float32 precision from the sigmoid at hand where compiled."""
    if not torch.compiler.is_compiling() or value.dtype != torch.float32:
        # Beyond 50 log1p(exp(x)) equals x to float64 precision.
        return F.softplus(value, threshold=50.0)
    # max(x, 0) - log(1 - t), t the smaller of the sigmoid and its complement, as 2 artanh(t / (2 - t)) by its series: a
    # third of the time of exp and log1p.
    smaller = torch.minimum(sigmoid, 1 - sigmoid)
    ratio = smaller / (2 - smaller)
    square = ratio * ratio
    series = torch.full_like(square, _ARTANH[-1])
    for coefficient in reversed(_ARTANH[:-1]):
        series = series * square + coefficient
    return value.clamp(min=0.0) + ratio * series


def _unknown_labels(output: Tensor, label: Tensor) -> Tensor:
    """NaN where a label names no class, for that cannot be refused without waiting for the device; else 0."""
    unknown = (label > output.shape[-1]).any()
    return torch.where(unknown, torch.nan, 0.0).to(working_dtype(output))
