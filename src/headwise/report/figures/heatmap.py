"""Matrices of numbers as colored cells that keep their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headwise.report.page.blocks import ROOM_BESIDE, Table, figure
from headwise.report.page.markup import NOTHING, Markup, breakable, element, number
from headwise.report.page.page import SHADES

_PRINTED_COLUMNS = 12
_TALL = 14  # rows; from here on they are slim
_STRONG = 0.62  # from here on light letters stand out more than dark ones


@dataclass(frozen=True)
class HeatMap:
    """A value per row and column, such as terms x layers or terms x terms.

    Attributes:
        title: what is shown.
        rows: names, top to bottom.
        columns: names, left to right.
        values: one sequence per row; `None` where there is no value.
        unit: of the values.
        caption: what was measured, at which level, and how to read it.
        log: shade by the logarithm (values that are not positive stay blank).
        diverging: shade from -1 over 0 to 1, negative cells hatched.
        absent: what a cell without a value means.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    unit: str = ""
    caption: str = ""
    log: bool = False
    diverging: bool = False
    absent: str = "none"

    def html(self, key: str) -> Markup:
        """The figure: the cells, and beside them (below, where they are broad) a table that sorts.

        Args:
            key: its identifier on the page.

        Returns:
            The figure.

        Raises:
            ValueError: values that do not fit the rows and columns.
        """
        if len(self.values) != len(self.rows) or any(len(row) != len(self.columns) for row in self.values):
            raise ValueError(
                f"heat map '{self.title}': values must be {len(self.rows)} rows of {len(self.columns)}, got "
                f"{[len(row) for row in self.values]}. Give None where there is no value."
            )
        shown = self._tallest()
        cells = [cell for cell in self._cells() if cell[2] is not None and not self.is_self(cell[0], cell[1])]
        table = Table(("row", "column", self.unit or "value"), cells, title=f"{self.title}: numbers", bare=True)
        broad = shown._width() > ROOM_BESIDE
        beside = element("details", element("summary", "Numbers"), table.html(key), open=not broad)
        body = element("div", shown._grid(), beside, class_="beside below" if broad else "beside")
        return figure(
            key, self.title, body, self._key(),
            caption=self.caption, wide=True,
        )  # fmt: skip

    def _width(self) -> int:
        return 110 * len(self.columns) + 140

    def _tallest(self) -> HeatMap:
        """Many columns become rows, since a page scrolls down more readily than sideways."""
        if len(self.columns) <= max(_PRINTED_COLUMNS, len(self.rows)):
            return self
        return replace(self, rows=self.columns, columns=self.rows, values=list(zip(*self.values, strict=True)))

    def _cells(self) -> list[tuple[str, str, float | None]]:
        return [
            (row, column, value)
            for row, line in zip(self.rows, self.values, strict=True)
            for column, value in zip(self.columns, line, strict=True)
        ]

    def is_self(self, row: str, column: str) -> bool:
        """A thing against itself, which says nothing where the matrix compares."""
        return self.diverging and row == column

    def _grid(self) -> Markup:
        heads = [element("th", breakable(name), scope="col") for name in self.columns]
        lines = [
            element("tr", element("th", breakable(row), scope="row"),
                    *(self._cell(row, column, value) for column, value in zip(self.columns, line, strict=True)))
            for row, line in zip(self.rows, self.values, strict=True)
        ]  # fmt: skip
        crowded = " crowded" if len(self.columns) > _PRINTED_COLUMNS else ""
        crowded += " tall" if len(self.rows) > _TALL else ""
        table = element("table", element("thead", element("tr", element("td"), *heads)), element("tbody", *lines),
                        class_=f"heat{crowded}",
                        width=self._width())  # fmt: skip
        return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=self.title)

    def _cell(self, row: str, column: str, value: float | None) -> Markup:
        said = self.absent if value is None else f"{number(value)} {self.unit}".strip()
        tip = f"{row} · {column}: {said}"
        if self.is_self(row, column):
            return element("td", "·", class_="self", data_tip=f"{row} with itself")
        if value is None:
            return element("td", NOTHING, class_="absent", data_tip=tip)
        shade = self._shade(value)
        if shade is None:
            return element("td", number(value), class_="unshaded", data_tip=tip)
        kind = "against" if self.diverging and value < 0 else "along"
        strong = " strong" if shade > _STRONG else ""
        text = f"{value:+.2f}" if self.diverging else number(value)
        return element("td", text, class_=f"{kind}{strong} v{round(SHADES * shade)}", data_tip=tip)

    def _shade(self, value: float) -> float | None:
        """Darkness in [0, 1], or `None` for a value the scale has no place for."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return None
        if self.diverging:
            return min(1.0, abs(value))
        low, high = self._range()
        place, low, high = (math.log(v) if self.log else v for v in (value, low, high))
        return 0.08 + 0.92 * (place - low) / (high - low) if high > low else 0.5

    def _range(self) -> tuple[float, float]:
        shown = [
            v for line in self.values for v in line
            if v is not None and math.isfinite(v) and (v > 0 or not self.log)
        ]  # fmt: skip
        return (min(shown), max(shown)) if shown else (0.0, 0.0)

    def _key(self) -> Markup:
        """The color scale with its ends named."""
        if self.diverging:
            ends = ("-1 against each other (hatched)", "+1 the same way")
        else:
            low, high = self._range()
            ends = (number(low), f"{number(high)} {self.unit}".strip() + (" (log scale)" if self.log else ""))
        bar = element("span", class_="scale diverging" if self.diverging else "scale", aria_hidden="true")
        return element("p", element("span", ends[0]), bar, element("span", ends[1]), class_="key")
