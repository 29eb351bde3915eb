"""With which factors vectors add up to another: plain numbers, on the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EXACT = 1e-5
"""The part of a vector that rounding may leave over."""
_LEFT = 1e-4
"""The same of gradients that were computed a second time."""


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


def flattened(gradients: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> Tensor:
    """The gradients at some tensors as one vector; 0 where there is none, or none that is finite."""
    pairs = zip(gradients, inputs, strict=True)
    parts = [(torch.zeros_like(x) if each is None else each).detach().cpu().double().flatten() for each, x in pairs]
    return torch.cat([torch.zeros(0, dtype=torch.float64), *parts]).nan_to_num(0.0, 0.0, 0.0)


def mixture(vectors: Tensor, whole: Tensor) -> dict[int, float]:
    """The vectors of which another is the sum, whether or not several choices of them would do.

    Args:
        vectors: (N, D).
        whole: (D,).

    Returns:
        Their numbers and factors, all positive; empty where it is no such sum.
    """
    norm = float(whole.norm())
    if not norm:
        return {}
    factors = torch.linalg.lstsq(vectors.T, whole[:, None], driver="gelsd").solution[:, 0]
    if float((whole - factors @ vectors).norm()) > _LEFT * norm:
        return {}
    sizes = factors * vectors.norm(dim=1)
    used = {i: float(factors[i]) for i, size in enumerate(sizes.tolist()) if abs(size) > 1e-3 * norm}
    return used if min(used.values(), default=0.0) > 0 else {}
