"""What to draw of a curve with more points than a screen has pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from headwise.runs.columns import Values, is_whole


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
    part = column[rows.start : rows.stop]
    finite = [value for value in part if value is not None and value - value == 0]  # no infinity, no NaN
    found = [rows.start + part.index(value) for value in (min(finite), max(finite))] if finite else []
    if len(finite) + part.count(None) < len(part):
        broken = (row for row, value in enumerate(part) if value is not None and not math.isfinite(value))
        found.append(rows.start + next(broken))
    return found


def moving_mean(
    values: Values, half_width: int, *, geometric: bool = False, rows: Sequence[int] | None = None
) -> list[float | None]:
    """Mean of the finite values at most `half_width` rows away; `None` where there is none.

    Args:
        values: one column.
        half_width: rows to each side.
        geometric: average logarithms (values that are not positive are left out), as a log axis asks.
        rows: where means are wanted; by default everywhere.

    Returns:
        One mean per row that was asked for.
    """
    wanted = range(len(values)) if rows is None else rows
    if is_whole(values) and (not geometric or min(values, default=1.0) > 0):
        return _means_of_whole(values, half_width, geometric, wanted)
    least = 0.0 if geometric else -math.inf
    usable = [value is not None and least < value < math.inf for value in values]
    kept = [value if ok and value is not None else 1.0 for ok, value in zip(usable, values, strict=True)]
    terms = [math.log(value) for value in kept] if geometric else [v * ok for v, ok in zip(kept, usable, strict=True)]
    sums, counts = [0.0, *accumulate(terms)], [0, *accumulate(usable)]
    means: list[float | None] = []
    for row in wanted:
        low, high = max(0, row - half_width), min(len(values), row + half_width + 1)
        count = counts[high] - counts[low]
        mean = (sums[high] - sums[low]) / count if count else None
        means.append(math.exp(mean) if geometric and mean is not None else mean)
    return means


def _means_of_whole(
    values: Sequence[float], half_width: int, geometric: bool, rows: Sequence[int]
) -> list[float | None]:
    """The same of a column in which every value is usable."""
    sums = [0.0, *accumulate(map(math.log, values) if geometric else values)]
    means: list[float | None] = []
    for row in rows:
        low, high = max(0, row - half_width), min(len(values), row + half_width + 1)
        mean = (sums[high] - sums[low]) / (high - low)
        means.append(math.exp(mean) if geometric else mean)
    return means
