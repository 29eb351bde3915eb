"""Round numbers along an axis."""

from __future__ import annotations

import math


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: where the axis begins.
        high: where it ends, above `low`.
        about: how many are wanted.

    Returns:
        Some of them, ascending; none where the axis is too short for numbers to tell its ends apart.
    """
    rough = (high - low) / max(about, 1)
    if not rough > 0 or not math.isfinite(rough):
        return []
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, first + 3 * about) if k * step <= high + 1e-9 * step]
