"""Tables of attribution as plain columns, as data frames, and as HTML in a notebook."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from headwise.require import require

BARS = frozenset({"share", "grad_norm", "norm"})
"""Columns whose numbers have a bar beside them, as long as their size beside the column's largest."""

_MOST_ROWS = 200
_BAR = 64
_BLUE = "#2f7fc4"


class Tabular:
    """What gives its numbers as rows: the base of everything that prints as a table."""

    __slots__ = ()

    def table_rows(self) -> list[dict[str, Any]]:
        """The rows, each a mapping from the columns' names to plain values."""
        raise NotImplementedError

    def table_title(self) -> str:
        """A line over the table in a notebook."""
        return type(self).__name__

    def to_dict(self) -> dict[str, list[Any]]:
        """The table as columns of plain values, which JSON can say but for what is not finite.

        Returns:
            Column's name -> a value per row; None where a row has none.
        """
        rows = self.table_rows()
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}

    def to_frame(self) -> Any:
        """The table as a ``pandas.DataFrame``.

        Returns:
            The frame, its columns those of `to_dict`.

        Raises:
            ImportError: The extra ``headwise[frames]`` is not installed.
        """
        require(f"{type(self).__name__}.to_frame", "frames")
        import pandas

        return pandas.DataFrame(self.to_dict())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return table_html(self.to_dict(), self.table_title())


def table_html(columns: Mapping[str, Sequence[Any]], title: str) -> str:
    """Columns as an HTML table, with bars and small curves.

    Args:
        columns: Per name a value per row: text, a number, a truth value, None, or a list of numbers, which is drawn.
        title: A line over the table.

    Returns:
        The HTML; every text is escaped. Tables of more than 200 rows are cut, which is said.
    """
    length = max(map(len, columns.values()), default=0)
    heads = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in columns)
    cells = [_cells(name, values[:_MOST_ROWS]) for name, values in columns.items()]
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
    left = f"<p>{length - _MOST_ROWS} more rows: to_dict() has them.</p>" if length > _MOST_ROWS else ""
    return (
        f"<p><b>{html.escape(title)}</b></p><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{left}"
    )


def _cells(name: str, values: Sequence[Any]) -> list[str]:
    numbers = [value for value in values if is_number(value) and math.isfinite(value)]
    largest = max(map(abs, numbers), default=0.0)
    as_share = name == "share" or name.startswith("share")
    return [_cell(value, largest if name in BARS else 0.0, as_share) for value in values]


def _cell(value: Any, largest: float, as_share: bool) -> str:
    if isinstance(value, list | tuple):
        return f"<td>{_curve(value)}</td>"
    if value is None:
        return "<td>\N{EN DASH}</td>"
    if not is_number(value):
        text = ("yes" if value else "no") if isinstance(value, bool) else str(value)
        return f'<td style="text-align:left">{html.escape(text)}</td>'
    said = f"{value:.1%}" if as_share and math.isfinite(value) else f"{value:.4g}"
    width = _BAR * abs(value) / largest if largest and math.isfinite(value) else 0.0
    drawn = f'<rect width="{width:.1f}" height="9" fill="{_BLUE}"/>'
    bar = f'<svg width="{_BAR}" height="9" aria-hidden="true">{drawn}</svg> ' if largest else ""
    return f'<td style="text-align:right;white-space:nowrap">{bar}{said}</td>'


def _curve(values: Sequence[float | None]) -> str:
    """A curve without axes, over at most 60 of the values; a gap where one is not finite."""
    shown = values[:: max(1, len(values) // 60)]
    finite = [value for value in shown if value is not None and math.isfinite(value)]
    if len(finite) < 2:
        return ""
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    path, pen = [], "M"
    for place, value in enumerate(shown):
        if value is None or not math.isfinite(value):
            pen = "M"
            continue
        path.append(f"{pen}{place * 96 / max(1, len(shown) - 1):.1f} {22 - (value - low) * 20 / span:.1f}")
        pen = "L"
    drawn = f'<path d="{"".join(path)}" fill="none" stroke="{_BLUE}" stroke-width="1.5"/>'
    return f'<svg width="96" height="24" aria-hidden="true">{drawn}</svg>'


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a plain number: a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
