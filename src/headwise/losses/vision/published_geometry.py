"""Losses as the authors' code computes them, defects included, for presets with ``as_published=True``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.parts.checks import check_elements, working_dtype
from headwise.losses.vision.geometry import check_direction
from headwise.masks import as_mask

_ANY_VALID = "one valid pixel in the micro-batch lets all others count; as_published=False is exact"


@declared(count=normalizers.elements, split_variant=_ANY_VALID)
def published_relative_smooth_l1(output: Tensor, target: Tensor, valid: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of smooth L1 losses of output / target against 1, targets of 0 included.

    A masked target of 0 makes the sum infinite or NaN and the gradient not finite. ``valid`` does not mask:
    it only decides whether the batch has any element to learn from; if so, elements that are not valid count
    as well.

    Args:
        output: Radii, (N, H, W), any floating dtype.
        target: Radii, (N, H, W).
        valid: Where the annotation holds, (N, H, W), any dtype (positive holds).
        mask: The center line, (N, H, W), any dtype (positive counts).

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output); 0 where no element of the mask is valid.

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        princewang1994/TextSnake.pytorch at b4ee996d, network/loss.py.
    """
    check_elements("published_relative_smooth_l1", output, target, mask)
    check_elements("published_relative_smooth_l1", output, valid, None)
    dtype, keep = working_dtype(output), _published_mask(valid, mask)
    quotient = torch.where(keep, output.to(dtype), 1.0) / torch.where(keep, target.to(dtype), 1.0)
    return F.smooth_l1_loss(quotient, torch.ones_like(quotient), reduction="sum")


@declared(count=normalizers.elements, split_variant=_ANY_VALID)
def published_direction_smooth_l1(
    output: Tensor, target: Tensor, valid: Tensor, mask: Tensor | None = None, *, component: int
) -> Tensor:
    """Sum of smooth L1 losses of one component of a direction that is scaled before it is masked.

    The scale is ``sqrt(1 / (sin^2 + cos^2))`` at every pixel, so (0, 0) anywhere makes the gradient NaN,
    outside the mask too. ``valid`` as in `published_relative_smooth_l1`.

    Args:
        output: Raw (sin, cos), (N, 2, H, W), any floating dtype.
        target: The component of the unit vector, (N, H, W).
        valid: Where the annotation holds, (N, H, W), any dtype (positive holds).
        mask: The center line, (N, H, W), any dtype (positive counts).
        component: 0 for sin, 1 for cos.

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output); 0 where no element of the mask is valid.

    Raises:
        ValueError: If a dtype, a shape or ``component`` does not fit.

    Reference:
        princewang1994/TextSnake.pytorch at b4ee996d, network/loss.py.
    """
    check_direction("published_direction_smooth_l1", output, target, mask, component)
    check_direction("published_direction_smooth_l1", output, valid, None, component)
    dtype, keep = working_dtype(output), _published_mask(valid, mask)
    vector = output.to(dtype)
    scaled = vector[:, component] * torch.sqrt(1.0 / vector.square().sum(1))
    difference = torch.where(keep, scaled - target.to(dtype), 0.0)
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="sum")


def _published_mask(valid: Tensor, mask: Tensor | None) -> Tensor:
    """The mask as it is, or nothing where none of it is valid."""
    keep = torch.ones_like(valid, dtype=torch.bool) if mask is None else as_mask(mask)
    return keep & (keep & as_mask(valid)).any()
