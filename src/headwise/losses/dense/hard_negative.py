"""Cross entropy over all positives and the hardest negatives (the papers' OHEM)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.dense.cross_entropy import (
    class_losses,
    cross_entropy_gradient,
    cross_entropy_value,
    two_class_margin,
)
from headwise.losses.parts.checks import check_labels, no_such_class, seen, working_dtype
from headwise.losses.parts.fused import fused_sum, is_plain, pieces
from headwise.losses.parts.mining import hardest
from headwise.masks import as_mask, times
from headwise.normalizers.counts import check_mining


@declared(
    count=normalizers.mined,
    shared=("ratio", "num_fallback", "per_image"),
    closed_form=True,
    split_variant="the hardest negatives are chosen over the micro-batch; per_image is exact",
    unless="per_image",
)
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
        The sum, 0-d, float32 (float64 for float64 logits); NaN where a label that counts names no class and cannot be
        seen, on a GPU or compiled.

    Raises:
        ValueError: If a dtype or a shape does not fit, a label that counts names no class, ``ratio`` or
            ``num_fallback`` is negative, or ``num_fallback`` not whole.

    Reference:
        Shrivastava et al., Training Region-based Object Detectors with Online Hard Example Mining, CVPR
        2016; Long et al., TextSnake, ECCV 2018; princewang1994/TextSnake.pytorch at b4ee996d,
        network/loss.py.

    Differs:
        The original selects ``num_fallback`` negatives without asking whether there are as many, and fails
        where there are not.
    """
    check_labels("hard_negative_cross_entropy", output, target, mask)
    check_mining("hard_negative_cross_entropy", ratio, num_fallback)
    # With two classes every positive label is class 1, and bool labels have the shorter formula.
    two_classes = output.shape[1] == 2
    labels = as_mask(target) if two_classes else target
    options = {"ratio": ratio, "num_fallback": num_fallback, "per_image": per_image}
    keep = _mined(output.detach(), labels, mask, **options)
    total = fused_sum(cross_entropy_value, cross_entropy_gradient, output, labels, keep)
    return _with_both_classes(total, target, mask) if two_classes and target.dtype.is_signed else total


def _with_both_classes(total: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    """The sum, or NaN where a label that counts is below 0; on the host, where that can be seen, it is refused."""
    below = labels < 0 if mask is None else (labels < 0) & as_mask(mask)
    if not (labels.is_cpu and is_plain(labels)):
        return total + torch.where(below.any(), torch.nan, 0.0).to(total.dtype)
    if seen(below.any()):
        raise no_such_class(torch.where(below, labels, 0), 2)
    return total


def _mined(output: Tensor, labels: Tensor, mask: Tensor | None, **options: Any) -> Tensor:
    """What counts: all positives and the hardest negatives, bool, (N, ...)."""
    is_positive = as_mask(labels)
    valid = torch.ones_like(is_positive) if mask is None else as_mask(mask)
    hardness = _hardness(output, labels, valid)
    return _mine(hardness, positive=valid & is_positive, negative=valid & ~is_positive, **options)


def _hardness(output: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """What ranks as the loss does: with two classes the margin, whose equals are equal to the bit."""
    parts = list(pieces(output, labels, valid))
    if len(parts) == 1:
        return _part_hardness(output, labels, valid)
    hardness = output.new_empty(labels.shape, dtype=working_dtype(output))
    for into, *part in pieces(hardness, output, labels, valid):
        into.copy_(_part_hardness(*part))
    return hardness


def _part_hardness(output: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    if labels.dtype == torch.bool:
        return two_class_margin(output, labels, valid)
    return class_losses(output, labels, valid)[1]


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
    """How many negatives to keep per group, int64."""
    wanted = times(num_positives, ratio, num_negatives)
    return torch.where(num_positives > 0, wanted, num_negatives.clamp(max=num_fallback))
