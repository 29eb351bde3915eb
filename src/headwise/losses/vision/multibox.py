"""SSD's multibox: classes of boxes against the hardest background of their image, and the boxes' offsets."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.dense.cross_entropy import class_losses, cross_entropy
from headwise.losses.dense.elementwise import smooth_l1
from headwise.losses.dense.hard_negative import hard_negative_cross_entropy
from headwise.losses.parts.checks import check_labels
from headwise.losses.parts.mining import hardest
from headwise.masks import as_mask, times


@declared(count=normalizers.boxes, closed_form=True)
def box_smooth_l1(output: Tensor, target: Tensor, mask: Tensor | None = None, *, beta: float = 1.0) -> Tensor:
    """Sum of smooth L1 losses of the boxes that count, over their four numbers.

    As `smooth_l1`, for boxes whose numbers stand last and a mask with one value a box.

    Args:
        output: Offsets, (N, A, 4), any floating dtype.
        target: Offsets, (N, A, 4).
        mask: What counts, (N, A), any dtype (positive counts, so labels will do); None counts every box.
        beta: Where the square passes into the line, > 0.

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype or a shape does not fit, or ``beta`` is not positive.
    """
    if output.ndim < 2 or output.shape != target.shape or (mask is not None and mask.shape != output.shape[:-1]):
        found = None if mask is None else tuple(mask.shape)
        raise ValueError(
            "box_smooth_l1: offsets (N, A, 4) need targets of that shape and a mask (N, A), found offsets "
            f"{tuple(output.shape)}, targets {tuple(target.shape)}, mask {found}. Give one mask value a box."
        )
    return smooth_l1(output.movedim(-1, 1), target.movedim(-1, 1), mask, beta=beta)


@declared(count=normalizers.foreground)
def multibox_cross_entropy(*levels: Tensor, ratio: float = 3.0) -> Tensor:
    """Sum of cross entropies over all positive boxes and, in each image, the hardest of the background.

    ``k = min(num_background, floor(ratio * num_positive))`` background boxes of an image count, those of largest
    loss over all its levels (of equals the first); none in an image without a positive.

    Args:
        levels: The logits of each level, (N, A_l, C + 1), any floating dtype, index 0 the background; then as many
            labels, (N, A_l), integer: negative ignored, 0 background, 1..C.
        ratio: Background boxes per positive, >= 0.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits). Divide by `normalizers.foreground`.

    Raises:
        ValueError: If the number of tensors, a dtype or a shape does not fit, or ``ratio`` is negative.

    Reference:
        Liu et al., SSD: single shot multibox detector, ECCV 2016, equation 1 and section 2.2.

    Differs:
        torchvision's version counts positives a second time where an image has too little background.
    """
    logits, labels = _joined("multibox_cross_entropy", levels)
    return hard_negative_cross_entropy(logits, labels, labels >= 0, ratio=ratio, num_fallback=0, per_image=True)


@declared(count=normalizers.foreground)
def published_multibox_cross_entropy(*levels: Tensor, ratio: float = 3.0) -> Tensor:
    """As `multibox_cross_entropy`, but positives count twice where an image has too little background.

    Positives are ranked behind all background; ``floor(ratio * num_positive)`` boxes are taken by rank, and those of
    them that are positive are added again (of positives, the first).

    Args:
        levels: As in `multibox_cross_entropy`.
        ratio: As in `multibox_cross_entropy`.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits).

    Raises:
        ValueError: If the number of tensors, a dtype or a shape does not fit, or ``ratio`` is negative.

    Reference:
        torchvision 0.29, models/detection/ssd.py, SSD.compute_loss.
    """
    logits, labels = _joined("published_multibox_cross_entropy", levels)
    if not ratio >= 0:
        raise ValueError(f"published_multibox_cross_entropy: ratio must be at least 0, found {ratio}.")
    valid, is_positive = labels >= 0, as_mask(labels)
    _, losses, _ = class_losses(logits.detach(), labels, valid)
    hardness = torch.where(is_positive, -torch.inf, losses).unsqueeze(1)
    num_positives, num_valid = (torch.count_nonzero(each, dim=1) for each in (is_positive, valid))
    wanted = torch.where(num_positives > 0, times(num_positives, ratio, num_valid), 0)
    taken = hardest(hardness, valid.unsqueeze(1), wanted).squeeze(1)
    return cross_entropy(logits, labels, is_positive) + cross_entropy(logits, labels, taken)


def _joined(loss: str, levels: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The logits of all levels, (N, C + 1, A), and their labels, (N, A)."""
    half = len(levels) // 2
    if half == 0 or len(levels) % 2:
        raise ValueError(
            f"{loss}: takes the logits of each level, then the labels of each, found {len(levels)} tensors. "
            "Give one label tensor a level; boxes that do not count have the label -1, not a mask."
        )
    for output, target in zip(levels[:half], levels[half:], strict=True):
        if output.ndim != 3 or output.shape[:2] != target.shape:
            raise ValueError(
                f"{loss}: logits of shape (N, A, C + 1) need labels of shape (N, A), found logits "
                f"{tuple(output.shape)} and labels {tuple(target.shape)}. Move the classes last."
            )
    first = levels[0]
    if any(each.shape[::2] != first.shape[::2] for each in levels[:half]):
        found = [tuple(each.shape) for each in levels[:half]]
        raise ValueError(f"{loss}: all levels are of the same images and classes, found logits {found}.")
    logits, labels = torch.cat(levels[:half], 1).movedim(-1, 1), torch.cat(levels[half:], 1)
    check_labels(loss, logits, labels, None)
    if labels.dtype == torch.bool:
        raise ValueError(f"{loss}: labels must be integer (-1 ignored, 0 background), found torch.bool. Use .long().")
    return logits, labels.long()
