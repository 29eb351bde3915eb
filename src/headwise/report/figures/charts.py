"""Curves over training steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from headwise.report.figures.sampling import moving_mean, rows_to_draw
from headwise.report.page.blocks import Table, figure
from headwise.report.page.markup import Markup, element, embedded_json, join, plain
from headwise.runs.columns import Values, finite, logged

DASHES = ("", "8 4", "2 3", "10 3 2 3", "5 2", "12 3 3 3 3 3", "1 2", "16 4")
"""Line styles, so that curves differ without color."""

_SMOOTH_FROM = 60


@dataclass(frozen=True)
class Curves:
    """Several columns over the same steps: lines, or shares stacked to areas.

    Attributes:
        title: what is shown.
        steps: the step of each row, ascending.
        series: name -> one value per row; `None` where nothing was logged, NaN and infinities as they are.
        caption: what was measured, at which level, and how to read it.
        unit: of the values, written at the axis.
        log: start with a logarithmic axis, unless a value is below 0.
        stacked: areas on top of each other, read as shares of one; those below 0 hang from it.
        bounds: lowest and highest value of the axis; `None` fits the curves.
        smooth: draw a moving mean over the pale logged values, from 60 rows on.
        wide: take the whole width of the page.
        points: about how many values to draw; a long run is thinned to its extremes.
    """

    title: str
    steps: Sequence[int]
    series: Mapping[str, Values]
    caption: str = ""
    unit: str = ""
    log: bool = False
    stacked: bool = False
    bounds: tuple[float, float] | None = None
    smooth: bool = True
    wide: bool = False
    points: int = 12_000

    def html(self, key: str) -> Markup:
        """The figure: a frame the page's script draws in, the legend, the data, the numbers."""
        frame = element("div", class_="chart", data_title=self.title)
        numbers = Table(_HEADER, self._numbers(), title="Numbers", folded=True, bare=True).html(key)
        note = element("noscript", element("p", "The curves need JavaScript; the numbers below do not."))
        return figure(
            key, self.title, self._controls(), frame, note, embedded_json(self.data()), numbers,
            caption=self._caption(), wide=self.wide,
        )  # fmt: skip

    @cached_property
    def rows(self) -> list[int]:
        """The rows that are drawn, on the page and as a picture."""
        return rows_to_draw(list(self.series.values()), self.points)

    @cached_property
    def means(self) -> list[list[float | None]]:
        """The moving mean of each curve at the rows that are drawn; no lists where none is drawn."""
        half = self.half_width
        columns = (self._whole_shares() if self.stacked else self.series.values()) if half else ()
        return [moving_mean(values, half, geometric=self.on_log, rows=self.rows) for values in columns]

    @cached_property
    def on_log(self) -> bool:
        """Whether the axis begins as a logarithmic one, on which nothing below 0 has a place."""
        return self.log and not self._falls_below

    @cached_property
    def _falls_below(self) -> bool:
        return any(value is not None and value < 0 for values in self.series.values() for value in values)

    def _whole_shares(self) -> list[Values]:
        """Shares that add up at each step: what is not logged where others are has none."""
        held = [any(value is not None for value in row) for row in zip(*self.series.values(), strict=True)]
        return [
            [0.0 if value is None and any_held else value for value, any_held in zip(values, held, strict=True)]
            for values in self.series.values()
        ]

    def data(self) -> dict[str, object]:
        """What the script draws: the chosen rows, non-finite values as text."""
        rows = self.rows
        return {
            "title": self.title,
            "names": list(self.series),
            "steps": [self.steps[row] for row in rows],
            "values": [[plain(values[row]) for row in rows] for values in self.series.values()],
            "smooth": [[plain(value) for value in mean] for mean in self.means] or None,
            "dashes": [DASHES[stroke(index)] for index in range(len(self.series))],
            "unit": self.unit,
            "log": self.on_log,
            "stacked": self.stacked,
            "bounds": self.bounds,
        }

    @property
    def half_width(self) -> int:
        """Rows to each side of the moving mean: 2 % of all rows; 0 draws the logged values alone."""
        return max(2, len(self.steps) // 50) if self.smooth and len(self.steps) >= _SMOOTH_FROM else 0

    def _caption(self) -> str:
        rows = self.rows
        parts = [self.caption]
        if self.half_width:
            mean = "geometric mean" if self.on_log else "mean"
            pale = "" if self.stacked else "; pale lines: the logged values"
            parts.append(f"Drawn: the {mean} over {2 * self.half_width + 1} logged steps{pale}.")
        if self.log and self._falls_below:
            parts.append("A log axis would hide what is not above 0.")
        if self.stacked and self._falls_below:
            parts.append("Bands below 0 are taken off the total: shares are of the sum of all sizes.")
        if not self.stacked and any(v is not None and not math.isfinite(v) for c in self.series.values() for v in c):
            parts.append("Crosses at the top: values that are not finite.")
        if len(rows) < len(self.steps):
            parts.append(
                f"{len(rows):,} of {len(self.steps):,} logged steps are drawn: the smallest, the largest and any "
                f"non-finite value of each stretch."
            )
        return " ".join(part for part in parts if part)

    def _controls(self) -> Markup:
        entries = [
            element(
                "button", swatch(index, area=self.stacked), element("span", name),
                type="button", aria_pressed="true", data_series=index, title=f"Show or hide {name}",
            )
            for index, name in enumerate(self.series)
        ]  # fmt: skip
        switches = [] if self.stacked or self.bounds else [_switch("log", "log axis", self.on_log)]
        if self.half_width:
            switches.append(_switch("smooth", "moving mean", True))
        return element(
            "div",
            element("div", *entries, class_="legend", role="group", aria_label="Curves"),
            element("div", *switches, class_="switches"),
            class_="controls",
        )

    def _numbers(self) -> list[list[object]]:
        return [[name, *summary(self.steps, values)] for name, values in self.series.items()]


_HEADER = ("curve", "first", "last", "smallest", "at step", "largest", "at step", "not finite")


def summary(steps: Sequence[int], values: Values) -> list[float | int | None]:
    """First and last logged value, smallest and largest finite one with their steps, count of non-finite ones."""
    held, usable = logged(values), finite(values)
    ends: list[float | int | None] = [None] * 4
    if usable:
        ends = [number for value in (min(usable), max(usable)) for number in (value, steps[values.index(value)])]
    first, last = (held[0], held[-1]) if held else (None, None)
    return [first, last, *ends, len(held) - len(usable)]


def stroke(index: int) -> int:
    """Which of eight line styles, marks or hatches a curve has: from the ninth on colors come again, with others."""
    return (index + 3 * (index // 8)) % 8


def _switch(option: str, label: str, on: bool) -> Markup:
    return element("label", element("input", type="checkbox", checked=on, data_option=option), label)


def swatch(index: int, *, area: bool = False) -> Markup:
    """A short piece of curve `index`, in its color and line style."""
    if area:
        shape = element("rect", width=18, height=10, y=1, class_=f"fill c{index % 8}")
        hatch = element("rect", width=18, height=10, y=1, class_=f"hatch h{stroke(index)}")
        return element("svg", shape, hatch, width=18, height=12, aria_hidden="true")
    line = element(
        "line",
        x1=0,
        x2=26,
        y1=6,
        y2=6,
        class_=f"line c{index % 8}",
        stroke_dasharray=DASHES[stroke(index)],
    )
    return element("svg", line, width=26, height=12, aria_hidden="true")


def sparkline(values: Values, *, width: int = 96, height: int = 24) -> Markup:
    """A curve without axes for a table's cell, over at most 60 rows; a gap where a value is not finite."""
    rows = range(0, len(values), max(1, len(values) // 60))
    finite = [v for row in rows if (v := values[row]) is not None and math.isfinite(v)]
    if len(finite) < 2:
        return Markup("")
    low, high = min(finite), max(finite)
    scale = (height - 4) / (high - low) if high > low else 0.0
    path, pen = [], "M"
    for place, row in enumerate(rows):
        value = values[row]
        if value is None or not math.isfinite(value):
            pen = "M"
            continue
        x, y = place * width / max(1, len(rows) - 1), height - 2 - (value - low) * scale
        path.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    line = element("path", d=join(path), class_="spark")
    return element("svg", line, width=width, height=height, viewBox=f"0 0 {width} {height}", aria_hidden="true")
