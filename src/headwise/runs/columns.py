"""What is asked of a column of a log: its first, last, middle and finite values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TypeGuard, cast

Values = Sequence[float | None]
"""A number per logged step; `None` where nothing was logged."""


def is_whole(values: Values) -> TypeGuard[Sequence[float]]:
    """Whether every value was logged and is finite, found at the speed of a sum."""
    try:
        return math.isfinite(sum(cast("Sequence[float]", values)))
    except TypeError:
        return False


def logged(values: Values) -> list[float]:
    """The values that were logged, finite or not."""
    return [value for value in values if value is not None]


def finite(values: Values) -> list[float]:
    """The finite values that were logged."""
    if is_whole(values):
        return list(values)
    return [value for value in values if value is not None and math.isfinite(value)]


def median(values: Values) -> float | None:
    """The median of the finite values; `None` where there is none."""
    found = finite(values)
    return statistics.median(found) if found else None


def first(values: Values) -> float | None:
    """The first value that was logged, finite or not."""
    return next(iter(logged(values)), None)


def last(values: Values) -> float | None:
    """The last value that was logged, finite or not."""
    return next(iter(reversed(logged(values))), None)


def or_nan(value: float | None) -> float:
    """A value, or NaN where nothing was logged."""
    return math.nan if value is None else value
