"""What to draw of a curve with more points than a screen has pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

Values = Sequence[float | None]


def rows_to_draw(columns: Sequence[Values], budget: int = 12_000) -> list[int]:
    """Rows that keep the picture: per stretch of rows each column's smallest, largest and first non-finite value.

    Args:
        columns: values of equal length, one column per curve; `None` where nothing was logged.
        budget: about how many values (rows times columns) to keep; fewer are all kept.

    Returns:
        Row indices, ascending. The first and the last row are among them.
    """
    num_rows = len(columns[0]) if columns else 0
    if num_rows * len(columns) <= budget:
        return list(range(num_rows))
    num_buckets = min(500, max(8, budget // (2 * len(columns) ** 2)))
    kept = {0, num_rows - 1}
    for bucket in range(num_buckets):
        rows = range(bucket * num_rows // num_buckets, (bucket + 1) * num_rows // num_buckets)
        for column in columns:
            kept.update(_landmarks(column, rows))
    return sorted(kept)


def _landmarks(column: Values, rows: range) -> list[int]:
    """The rows of the smallest, the largest and the first non-finite value."""
    lowest = highest = broken = None
    for row in rows:
        value = column[row]
        if value is None:
            continue
        if not math.isfinite(value):
            broken = row if broken is None else broken
        else:
            lowest = row if lowest is None or value < column[lowest] else lowest  # type: ignore[operator] # a number
            highest = row if highest is None or value > column[highest] else highest  # type: ignore[operator]
    return [row for row in (lowest, highest, broken) if row is not None]


def moving_mean(values: Values, half_width: int, *, geometric: bool = False) -> list[float | None]:
    """Mean of the finite values at most `half_width` rows away; `None` where there is none.

    Args:
        values: one column.
        half_width: rows to each side.
        geometric: average logarithms (values that are not positive are left out), as a log axis asks.

    Returns:
        One mean per row.
    """
    usable = [v is not None and math.isfinite(v) and (v > 0 or not geometric) for v in values]
    terms = [
        (math.log(v) if geometric else v) if ok and v is not None else 0.0 for v, ok in zip(values, usable, strict=True)
    ]
    sums, counts = [0.0, *accumulate(terms)], [0, *accumulate(usable)]
    means: list[float | None] = []
    for row in range(len(values)):
        low, high = max(0, row - half_width), min(len(values), row + half_width + 1)
        count = counts[high] - counts[low]
        mean = (sums[high] - sums[low]) / count if count else None
        means.append(math.exp(mean) if geometric and mean is not None else mean)
    return means
