"""Tables for a terminal: at most 100 columns wide, readable without color, with nothing but the standard library."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from headwise.report.page.markup import number
from headwise.tabular import is_number

_STYLES = {"plain": "", "bold": "1", "dim": "2", "good": "32", "warning": "33", "bad": "31;1"}
_NARROWEST = 8
_GAP = "  "


@dataclass(frozen=True)
class Cell:
    """A value with a style, which is shown where the terminal has colors and never carries meaning alone.

    Attributes:
        value: text or a number.
        style: one of plain, bold, dim, good, warning, bad.
    """

    value: object
    style: str = "plain"


def colors_wanted(stream: TextIO | None = None) -> bool:
    """Whether `stream` (default: standard output) is a terminal with colors; `NO_COLOR` and `TERM=dumb` say no."""
    stream = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def render_table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    width: int = 100,
    color: bool | None = None,
) -> str:
    """A table as text. Numbers stand right, text left.

    Long text is cut in its middle; where that is not enough, the columns are folded into several blocks, each with
    the first column again.

    Args:
        header: a name per column.
        rows: per row a value, or a `Cell`, per column; numbers get 4 significant digits, `None` is a dash.
        title: a line above the table.
        width: the widest line, in character cells, at least 40.
        color: write ANSI styles; `None` asks `colors_wanted()`.

    Returns:
        Lines without a trailing newline.

    Raises:
        ValueError: a row that has not one value per column, or a width under 40.
    """
    if width < 40:
        raise ValueError(f"render_table: width {width} is too narrow to read. Give at least 40.")
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(
                f"render_table: row {index} has {len(row)} values, the header {len(header)} names "
                f"({', '.join(header)}). Give one value per column, None where there is none."
            )
    if not header:
        return _cut(_printable(title), width)
    styled = colors_wanted() if color is None else color
    columns = [_Column.of(name, [row[place] for row in rows]) for place, name in enumerate(header)]
    blocks = [_render_block(block, styled) for block in _fold(columns, width)]
    heading = [_paint(_cut(_printable(title), width), "bold", styled)] if title else []
    return "\n".join([*heading, "\n\n".join(blocks)])


@dataclass(frozen=True)
class _Column:
    """A column's texts, the header first, with their styles."""

    texts: tuple[str, ...]
    styles: tuple[str, ...]
    right: bool

    @classmethod
    def of(cls, name: str, values: Sequence[object]) -> _Column:
        cells = [value if isinstance(value, Cell) else Cell(value) for value in values]
        texts = tuple(_printable(_text(cell.value)) for cell in cells)
        numeric = [is_number(cell.value) or cell.value is None for cell in cells]
        return cls((_printable(name), *texts), ("bold", *(c.style for c in cells)), bool(cells) and all(numeric))

    @property
    def width(self) -> int:
        return max(_cells(text) for text in self.texts)

    def shortened(self, width: int) -> _Column:
        return _Column(tuple(_cut(text, width) for text in self.texts), self.styles, self.right)


def _fold(columns: list[_Column], width: int) -> list[list[_Column]]:
    """Blocks of columns that fit: text is cut to a third of the width, then columns go to a new block."""
    label = columns[0].shortened(max(_NARROWEST, width // 3 if len(columns) > 1 else width))
    room = width - label.width
    blocks: list[list[_Column]] = [[label]]
    left = room
    for column in columns[1:]:
        fitted = column.shortened(room - len(_GAP))
        needed = fitted.width + len(_GAP)
        if needed > left and len(blocks[-1]) > 1:
            blocks.append([label])
            left = room
        blocks[-1].append(fitted)
        left -= needed
    return blocks


def _render_block(columns: list[_Column], styled: bool) -> str:
    widths = [column.width for column in columns]
    lines = []
    for row in range(len(columns[0].texts)):
        cells = []
        for column, width in zip(columns, widths, strict=True):
            padding = " " * (width - _cells(column.texts[row]))
            painted = _paint(column.texts[row], column.styles[row], styled)
            cells.append(padding + painted if column.right else painted + padding)
        lines.append(_GAP.join(cells).rstrip())
        if row == 0:
            lines.append(_GAP.join("-" * width for width in widths))
    return "\n".join(lines)


def _paint(text: str, style: str, styled: bool) -> str:
    code = _STYLES.get(style, "")
    return f"\x1b[{code}m{text}\x1b[0m" if styled and code and text else text


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    return number(value) if isinstance(value, int | float) else str(value)


def _printable(text: str) -> str:
    """One line without control characters, which a name could smuggle into the terminal."""
    return "".join(c if c.isprintable() else "?" for c in re.sub(r"\s+", " ", text).strip())


def _cells(text: str) -> int:
    """How many character cells the text takes: wide characters two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, width: int) -> str:
    """The text, or its beginning and end around `...`, in at most `width` cells."""
    if _cells(text) <= width:
        return text
    head, tail = list(text), []
    while head and _cells("".join(head)) > (width - 3 + 1) // 2:
        tail.append(head.pop())
    tail.reverse()
    while tail and _cells("".join(head + tail)) > width - 3:
        tail.pop(0)
    return "".join(head) + "..." + "".join(tail)
