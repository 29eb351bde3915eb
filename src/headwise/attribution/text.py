"""Plain-text tables that fit a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 100


def names(items: Iterable[str], limit: int = 6) -> str:
    """A list of names in words, cut off after `limit`."""
    found = list(items)
    text = ", ".join(found[:limit])
    return f"{text} and {len(found) - limit} more" if len(found) > limit else text or "none"


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or what it is."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def wrapped(line: str) -> str:
    """A sentence over as many lines as it needs, all but the first indented."""
    return textwrap.fill(line, WIDTH, subsequent_indent="    ")


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, at most `WIDTH` wide.

    Columns that do not fit beside the first go into further blocks below, each with the first column repeated.

    Args:
        header: One name per column.
        rows: The cells.

    Returns:
        The table, without a newline at its end.
    """
    if not rows:
        return ""
    table = [list(header), *(list(row) for row in rows)]
    widths = [min(max(len(row[i]) for row in table), WIDTH // 2 - 2) for i in range(len(header))]
    blocks, block, used = [], [0], widths[0]
    for index in range(1, len(header)):
        if used + 2 + widths[index] > WIDTH and len(block) > 1:
            blocks.append(block)
            block, used = [0], widths[0]
        block.append(index)
        used += 2 + widths[index]
    blocks.append(block)
    return "\n\n".join(_block(table, each, widths) for each in blocks)


def _block(table: list[list[str]], chosen: list[int], widths: list[int]) -> str:
    lines = ["  ".join(clipped(row[i], widths[i]).ljust(widths[i]) for i in chosen).rstrip() for row in table]
    rule = "-" * min(max(len(line) for line in lines), WIDTH)
    return "\n".join([lines[0], rule, *lines[1:]])


def clipped(text: str, width: int) -> str:
    """A name without its middle, where it is too long: what tells names apart is at either end."""
    begin = (width - 2) // 2
    return text if len(text) <= width else f"{text[:begin]}..{text[len(text) - width + 2 + begin :]}"
