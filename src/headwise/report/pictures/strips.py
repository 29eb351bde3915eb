"""Pairs of points on a line: whether the two of a pair are together and the pairs apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from headwise.report.figures.ticks import ticks
from headwise.report.page.markup import Markup, element, number
from headwise.runs.samples import PointPairs
from headwise.runs.samples.parts import as_array

MOST_ROWS = 24
_WIDTH, _ROW, _TOP, _BOTTOM, _RIGHT = 560, 17, 12, 44, 14
_LETTER = 7.2  # width of one, roughly; labels are cut at 18

Pair = tuple[float, float, str]


def strip(pairs: PointPairs) -> Markup:
    """A row per object, by value: its two points joined, and below all of them on one line.

    Args:
        pairs: what to draw.

    Returns:
        The drawing with its title and its key.
    """
    rows = drawn_rows(pairs)
    if not rows:
        return element("div", element("p", pairs.title), element("p", "No pair of finite numbers.", class_="note"))
    left = 16 + _LETTER * min(18, max(len(label) for _, _, label in rows))
    low, high = bounds(rows)
    place = _Scale(left, (_WIDTH - _RIGHT - left) / (high - low), low)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    base = _TOP + _ROW * len(rows) + 10
    marks = [mark for index, row in enumerate(rows) for mark in _row(pairs, row, index, place, base)]
    drawing = element(
        "svg", *_axis(place, low, high, base), *marks,
        viewBox=f"0 0 {_WIDTH} {height}", width=_WIDTH, class_="strip", role="img",
        aria_label=f"{pairs.title}: {len(rows)} pairs from {number(low)} to {number(high)}",
    )  # fmt: skip
    return element("div", element("p", pairs.title), drawing, _key(pairs, rows), class_="pair")


def drawn_rows(pairs: PointPairs) -> list[Pair]:
    """The pairs that are drawn, lowest first: finite ones, spread evenly over all where there are too many."""
    first, second = (as_array(points).tolist() for points in (pairs.first, pairs.second))
    columns = zip(first, second, pairs.labels or [""] * len(first), strict=True)
    finite = sorted(
        (row for row in columns if math.isfinite(row[0]) and math.isfinite(row[1])), key=lambda row: row[0] + row[1]
    )
    if len(finite) <= MOST_ROWS:
        return finite
    return [finite[round(k * (len(finite) - 1) / (MOST_ROWS - 1))] for k in range(MOST_ROWS)]


def bounds(rows: Sequence[Pair]) -> tuple[float, float]:
    """The lowest and the highest value, with a margin; never the same."""
    values = [value for row in rows for value in row[:2]]
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or max(0.5, 0.1 * abs(high))
    return low - margin, high + margin


class _Scale:
    """From a value to a place on the line."""

    def __init__(self, left: float, scale: float, low: float) -> None:
        self.left, self._scale, self._low = left, scale, low

    def __call__(self, value: float) -> float:
        return round(self.left + (value - self._low) * self._scale, 1)


def _row(pairs: PointPairs, row: Pair, index: int, place: _Scale, base: float) -> list[Markup]:
    first, second, label = row
    y = _TOP + _ROW * (index + 0.5)
    name = label or f"object {index + 1}"
    tip = f"{name}: {pairs.names[0]} {number(first)}, {pairs.names[1]} {number(second)}"
    color = f"c{index % 8}"
    marks = [
        element("line", x1=place(first), x2=place(second), y1=y, y2=y, class_=f"join {color}"),
        *_marks(place(first), place(second), y, color),
        *_marks(place(first), place(second), base, color),
    ]
    short = label if len(label) <= 18 else f"{label[:17]}…"
    text = element("text", short, x=place.left - 8, y=y + 4, text_anchor="end", class_="tick")
    return [element("g", text, *marks, data_tip=tip)]


def _marks(first: float, second: float, y: float, color: str) -> list[Markup]:
    """A dot for the first, a ring that stays visible around it for the second."""
    return [
        element("circle", cx=first, cy=y, r=3.6, class_=f"dot {color}"),
        element("rect", x=second - 4.5, y=y - 4.5, width=9, height=9, class_=f"ring {color}"),
    ]


def _axis(place: _Scale, low: float, high: float, base: float) -> list[Markup]:
    lines = [element("line", x1=place(low), x2=place(high), y1=base, y2=base, class_="base")]
    for value in ticks(low, high, 5):
        x = place(value)
        lines.append(element("line", x1=x, x2=x, y1=_TOP - 4, y2=base + 8, class_="rule"))
        lines.append(element("text", number(value), x=x, y=base + 24, text_anchor="middle", class_="tick"))
    return lines


def _key(pairs: PointPairs, rows: Sequence[Pair]) -> Markup:
    left_out = len(pairs.first) - len(rows)
    told = f"A row per object: dot {pairs.names[0]}, square {pairs.names[1]}; below, all on one line."
    more = f" {left_out} of {len(pairs.first)} objects are not shown." if left_out else ""
    return element("p", told + more, class_="note")
