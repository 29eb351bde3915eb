"""Losses of an actor: what its actions were worth, and how undecided it stays."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.parts.checks import check_elements, select, working_dtype
from headwise.masks import spread_mask

_BEYOND_ANY_CLIP = 80.0  # of which exp is still finite in float32


@declared(count=normalizers.elements)
def policy_gradient(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of ``-advantage * log probability`` of the actions that were taken.

    Args:
        output: Log probabilities of the actions, (N,) or (N, T), any floating dtype.
        target: Advantages, of the output's shape.
        mask: What counts, of the output's shape, any dtype (positive counts); None: all.

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        Mnih et al., Asynchronous methods for deep reinforcement learning, ICML 2016, section 4; stable-baselines3,
        a2c/a2c.py.
    """
    log_probability, advantage, _ = _actions("policy_gradient", output, target, mask)
    return -(advantage * log_probability).sum()


@declared(count=normalizers.elements)
def clipped_policy_gradient(
    output: Tensor, target: Tensor, before: Tensor, mask: Tensor | None = None, *, clip: float = 0.2
) -> Tensor:
    """Sum of the clipped surrogates of proximal policy optimization.

    ``-sum over i of min(A_i r_i, A_i clamp(r_i, 1 - clip, 1 + clip))`` with ``r = exp(output - before)``.

    Args:
        output: Log probabilities of the actions, (N,) or (N, T), any floating dtype.
        target: Advantages A, of the output's shape.
        before: Log probabilities under the policy that acted, of the output's shape.
        mask: What counts, of the output's shape, any dtype (positive counts); None: all.
        clip: How far the ratio may go from 1, > 0.

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype, a shape or ``clip`` does not fit.

    Reference:
        Schulman et al., Proximal policy optimization algorithms, 2017, equation 7; stable-baselines3, ppo/ppo.py.
    """
    if not clip > 0:
        raise ValueError(f"clipped_policy_gradient: clip must be positive, found {clip}. The paper has 0.2.")
    check_elements("clipped_policy_gradient", output, before, mask)
    log_probability, advantage, keep = _actions("clipped_policy_gradient", output, target, mask)
    grown = log_probability - select(keep, before.to(log_probability.dtype), 0.0)
    # The clip holds there; an infinite ratio would make its gradient of 0, and the value of an advantage of 0, NaN.
    ratio = torch.exp(torch.where(advantage >= 0, grown.clamp(max=_BEYOND_ANY_CLIP), grown))
    return -torch.minimum(advantage * ratio, advantage * ratio.clamp(1 - clip, 1 + clip)).sum()


@declared(count=normalizers.elements)
def entropy_bonus(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Minus the sum of entropies, ``-sum over i of mask_i * output_i``: less the more undecided a policy is.

    Args:
        output: Entropies of the policy, (N,) or (N, T), any floating dtype.
        target: Any tensor of the output's shape: it is counted, not looked at.
        mask: What counts, of the output's shape, any dtype (positive counts); None: all.

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        Mnih et al., Asynchronous methods for deep reinforcement learning, ICML 2016, section 4.
    """
    check_elements("entropy_bonus", output, target, mask)
    return -select(spread_mask(output, mask), output.to(working_dtype(output)), 0.0).sum()


def _actions(loss: str, output: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log probabilities and advantages, 0 outside the mask, and the mask."""
    check_elements(loss, output, target, mask)
    keep, dtype = spread_mask(output, mask), working_dtype(output)
    return select(keep, output.to(dtype), 0.0), select(keep, target.to(dtype), 0.0), keep
