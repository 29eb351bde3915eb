"""How much of each copy a total holds: plain numbers, on the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch

EXACT = 1e-5
"""The part of a vector that rounding may leave over."""


def weights_of(products: Sequence[Sequence[float]], arriving: Sequence[float], square: float) -> list[float] | None:
    """The weights with which vectors add up to one that arrived.

    Args:
        products: The vectors' inner products with each other.
        arriving: Their inner products with what arrived.
        square: The square of what arrived.

    Returns:
        The weights; None if they do not explain what arrived, or if several weights would.
    """
    if square == 0:
        return [0.0] * len(arriving)
    gram = torch.tensor(products, dtype=torch.float64)
    found = torch.tensor(arriving, dtype=torch.float64)
    scale = gram.diagonal().clamp(min=0).sqrt()
    if not (gram.isfinite().all() and found.isfinite().all() and square > 0 and bool((scale > 0).all())):
        return None
    unit = gram / scale[:, None] / scale[None]
    if float(torch.linalg.eigvalsh(unit)[0]) < EXACT:
        return None
    weights = torch.linalg.solve(unit, found / scale) / scale
    left = square - 2 * float(weights @ found) + float(weights @ gram @ weights)
    return weights.tolist() if abs(left) <= EXACT**2 * 10 * square else None
