"""Losses of TextSnake's geometry: radii relative to their target, and directions of any length."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.dense.cross_entropy import channel_pair
from headwise.losses.dense.elementwise import check_beta, smooth_l1_slope, smooth_l1_sum
from headwise.losses.parts.checks import check_elements, check_output, select, working_dtype
from headwise.losses.parts.fused import fused_sum
from headwise.masks import not_below, spread_mask
from headwise.whole import is_whole


@declared(count=normalizers.positive, closed_form=True)
def relative_smooth_l1(output: Tensor, target: Tensor, mask: Tensor | None = None, *, beta: float = 1.0) -> Tensor:
    """Sum of smooth L1 losses of the quotient of output and target against 1.

    ``sum over i with target_i > 0 of mask_i * s(output_i / target_i - 1)``, s as in `smooth_l1`. Elements
    whose target is 0 or less are dropped (a NaN target is kept, so that it shows); `normalizers.positive`
    drops them as well.

    Args:
        output: Values, any shape, any floating dtype (TextSnake: radii in pixels of the input).
        target: Positive values of the output's shape.
        mask: What counts, of the output's shape or that without dimension 1, any dtype (positive counts).
        beta: Where the square passes into the line, > 0, of the quotient.

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype or a shape does not fit, or ``beta`` is not positive.

    Reference:
        Long et al., TextSnake, ECCV 2018, equation 5; princewang1994/TextSnake.pytorch at b4ee996d,
        network/loss.py.

    Differs:
        The original divides by targets of 0 and becomes infinite.
    """
    check_elements("relative_smooth_l1", output, target, mask)
    check_beta("relative_smooth_l1", beta)
    return fused_sum(_relative, _relative_gradient, output, target, mask, beta=beta)


@declared(count=normalizers.elements, closed_form=True)
def direction_smooth_l1(
    output: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    component: int,
    beta: float = 1.0,
    eps: float = 1e-6,
) -> Tensor:
    """Sum of smooth L1 losses of one component of a direction against its target.

    ``sum over i of mask_i * s(v_i,component / sqrt(max(v_i0^2 + v_i1^2, eps)) - target_i)``, v the output, s
    as in `smooth_l1`.

    Args:
        output: Raw (sin, cos) of any length, (N, 2, ...), any floating dtype.
        target: The component of the unit vector, in [-1, 1], (N, ...).
        mask: What counts, (N, ...), any dtype (positive counts); None counts everything.
        component: 0 for sin, 1 for cos.
        beta: Where the square passes into the line, > 0.
        eps: Least squared length to divide by, > 0. Shorter vectors are scaled by ``1 / sqrt(eps)`` and so
            have a finite gradient, at most that long, also at (0, 0).

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype or a shape does not fit, or an option is out of its range.

    Reference:
        Long et al., TextSnake, ECCV 2018, equation 5; princewang1994/TextSnake.pytorch at b4ee996d,
        network/loss.py.

    Differs:
        The original scales before it selects and has no ``eps``: one pixel at (0, 0), inside or outside the
        mask, makes its gradient NaN.
    """
    check_direction("direction_smooth_l1", output, target, mask, component)
    check_beta("direction_smooth_l1", beta)
    if not 0 < eps < math.inf:
        raise ValueError(f"direction_smooth_l1: eps must be positive and finite, found {eps}. The default is 1e-6.")
    return fused_sum(_direction, _direction_gradient, output, target, mask, component=component, beta=beta, eps=eps)


def check_direction(loss: str, output: Tensor, target: Tensor, mask: Tensor | None, component: int) -> None:
    """Asks for an output (N, 2, ...), a target and mask (N, ...), and a component that exists.

    Args:
        loss: Name of the loss, for the message.
        output: Raw (sin, cos).
        target: One component of the unit vector.
        mask: Mask, or None.
        component: Which one.

    Raises:
        ValueError: If a dtype, a shape or the component does not fit.
    """
    check_output(loss, output, target, mask)
    if output.ndim < 2 or output.shape[1] != 2:
        raise ValueError(
            f"{loss}: the output must have two channels (sin, cos), (N, 2, ...), found "
            f"{tuple(output.shape)}. Slice the two channels."
        )
    if target.shape != output.shape[:1] + output.shape[2:]:
        raise ValueError(
            f"{loss}: an output of shape {tuple(output.shape)} needs a target of shape "
            f"{tuple(output.shape[:1] + output.shape[2:])}, found {tuple(target.shape)}. "
            "Pass the map of one component, without a channel dimension."
        )
    if mask is not None and mask.shape != target.shape:
        raise ValueError(
            f"{loss}: the mask must have the target's shape {tuple(target.shape)}, found "
            f"{tuple(mask.shape)}. Resize or expand the mask."
        )
    if not is_whole(component, 0) or component > 1:
        raise ValueError(f"{loss}: component must be 0 (sin) or 1 (cos), found {component!r}.")


def _relative(output: Tensor, target: Tensor, mask: Tensor | None, *, beta: float) -> Tensor:
    difference, _ = _relative_difference(output, target, mask)
    return smooth_l1_sum(difference, beta)


def _relative_gradient(output: Tensor, target: Tensor, mask: Tensor | None, *, beta: float) -> Tensor:
    difference, divisor = _relative_difference(output, target, mask)
    return smooth_l1_slope(difference, beta) / divisor


def _relative_difference(output: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Quotient minus 1 and divisor; 0 and 1 where nothing counts."""
    dtype, keep, masked = working_dtype(output), not_below(target), spread_mask(output, mask)
    keep = keep if masked is None else keep & masked
    divisor = torch.where(keep, target.to(dtype), 1.0)
    return torch.where(keep, output.to(dtype), 1.0) / divisor - 1.0, divisor


def _direction(
    output: Tensor, target: Tensor, mask: Tensor | None, *, component: int, beta: float, eps: float
) -> Tensor:
    keep = spread_mask(target, mask)
    along, *_ = _unit_vector(output, keep, component, eps)
    return smooth_l1_sum(select(keep, along - target.to(along.dtype), 0.0), beta)


def _direction_gradient(
    output: Tensor, target: Tensor, mask: Tensor | None, *, component: int, beta: float, eps: float
) -> Tensor:
    keep = spread_mask(target, mask)
    along, across, scale, square = _unit_vector(output, keep, component, eps)
    slope = scale * smooth_l1_slope(select(keep, along - target.to(along.dtype), 0.0), beta)
    # d(a r)/da = r b^2 and d(a r)/db = -r a b for the unit vector (a, b); below eps the scale r is a constant.
    long = square > eps
    to_along = slope * torch.where(long, across.square(), 1.0)
    to_across = slope * torch.where(long, -along * across, 0.0)
    pair = (to_along, to_across) if component == 0 else (to_across, to_along)
    return channel_pair(*pair)


def _unit_vector(
    output: Tensor, keep: Tensor | None, component: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The component, the other one, their scale and the squared length before it; (0, 0) outside ``keep``."""
    dtype = working_dtype(output)
    along = select(keep, output[:, component].to(dtype), 0.0)
    across = select(keep, output[:, 1 - component].to(dtype), 0.0)
    square = along.square() + across.square()
    scale = square.clamp(min=eps).rsqrt()
    return along * scale, across * scale, scale, square
