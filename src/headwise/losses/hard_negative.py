"""Cross entropy over all positives and the hardest negatives (the papers' OHEM)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from headwise.losses.checks import as_mask, check_labels
from headwise.losses.cross_entropy import (
    class_gradient,
    class_losses,
    margin_losses,
    two_class_gradient,
    two_class_margin,
)
from headwise.losses.fused import fused_sum
from headwise.losses.mining import hardest


def hard_negative_cross_entropy(
    output: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    ratio: float = 3.0,
    num_fallback: int = 100,
    per_image: bool = False,
) -> Tensor:
    """Sum of cross entropies over all positives and the k hardest negatives.

    Positives are ``mask & (target > 0)``, negatives ``mask & (target == 0)``, and
    ``k = min(num_negatives, floor(ratio * num_positives))``, or ``min(num_negatives, num_fallback)`` without
    a positive. The choice is exact: of negatives with equal loss the first in memory order are taken, as by
    a stable sort. Divide by `normalizers.mined` with the same options.

    Args:
        output: Logits, (N, C, ...), any floating dtype; class 0 is the background.
        target: Labels, (N, ...), bool or integer; with C = 2 every positive label is class 1.
        mask: What counts, (N, ...), any dtype (positive counts); None counts everything.
        ratio: Negatives per positive, >= 0.
        num_fallback: Number of negatives where there is no positive, >= 0.
        per_image: Rank and count within each image, not over the whole batch: then the loss does not depend
            on how images are grouped into batches.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits).

    Raises:
        ValueError: If a dtype or a shape does not fit, or ``ratio`` or ``num_fallback`` is negative.

    Reference:
        Shrivastava et al., Training Region-based Object Detectors with Online Hard Example Mining, CVPR
        2016; Long et al., TextSnake, ECCV 2018; princewang1994/TextSnake.pytorch at b4ee996d,
        network/loss.py.

    Differs:
        The original selects ``num_fallback`` negatives without asking whether there are as many, and fails
        where there are not.
    """
    check_labels("hard_negative_cross_entropy", output, target, mask)
    if not (ratio >= 0 and num_fallback >= 0):
        raise ValueError(
            "hard_negative_cross_entropy: ratio and num_fallback must be at least 0, found "
            f"ratio={ratio}, num_fallback={num_fallback}. The published values are 3 and 100."
        )
    kernel = partial(_hard_negative, ratio=ratio, num_fallback=num_fallback, per_image=per_image)
    return fused_sum(kernel, output, target, mask)


def _hard_negative(
    output: Tensor,
    target: Tensor,
    mask: Tensor | None,
    *,
    ratio: float,
    num_fallback: int,
    per_image: bool,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    is_positive = as_mask(target)
    valid = torch.ones_like(is_positive) if mask is None else as_mask(mask)
    positive, negative = valid & is_positive, valid & ~is_positive
    mine = partial(
        _mine,
        positive=positive,
        negative=negative,
        ratio=ratio,
        num_fallback=num_fallback,
        per_image=per_image,
    )
    if output.shape[1] == 2:
        # The loss grows with the margin, so the margin ranks as well, and equal margins are equal to the bit.
        margin = two_class_margin(output, is_positive, valid)
        kept = torch.where(mine(margin), margin, -torch.inf)
        gradient = two_class_gradient(kept, is_positive, output.dtype) if with_gradient else None
        return margin_losses(kept).sum(), gradient
    log_probability, losses, labels = class_losses(output, target, valid)
    keep = mine(losses)
    gradient = class_gradient(log_probability, labels, keep, output.dtype) if with_gradient else None
    return torch.where(keep, losses, 0.0).sum(), gradient


def _mine(
    hardness: Tensor, *, positive: Tensor, negative: Tensor, ratio: float, num_fallback: int, per_image: bool
) -> Tensor:
    """The positives and, of each group (the batch or an image), the hardest negatives."""
    num_groups = len(hardness) if per_image else 1
    grid = (num_groups, -1, hardness.shape[-1] if hardness.ndim > 1 else hardness.numel() // max(num_groups, 1))
    if hardness.numel() == 0:
        return positive
    groups = negative.reshape(grid)
    count = num_mined_negatives(
        torch.count_nonzero(positive.reshape(num_groups, -1), dim=1),
        torch.count_nonzero(groups.flatten(1), dim=1),
        ratio=ratio,
        num_fallback=num_fallback,
    )
    return positive | hardest(hardness.reshape(grid), groups, count).view(hardness.shape)


def num_mined_negatives(num_positives: Tensor, num_negatives: Tensor, *, ratio: float, num_fallback: int) -> Tensor:
    """How many negatives to keep per group, int64; counted in float64, so that no count is rounded."""
    wanted = (num_positives.double() * ratio).long()
    return torch.where(num_positives > 0, wanted, num_fallback).minimum(num_negatives)
