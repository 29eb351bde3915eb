"""A preset's card on the page: its table as a table, the rest as paragraphs and lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headwise.report.page.blocks import Block, Table, Text
from headwise.report.page.markup import Markup, element, join

TITLE = "The preset's card"

_RULE = re.compile(r"=+( +=+)+$")


def card_blocks(text: str) -> list[Block]:
    """The blocks of a card.

    Args:
        text: As `headwise.presets.card` gives it, with tables between rules of ``=``.

    Returns:
        Its tables, under the first what stands before it, and between them and behind the rest; of a card without a
        table the text as it is.
    """
    lines = text.strip("\n").splitlines()
    blocks: list[Block] = []
    held: list[str] = []
    header: list[str] = []
    for part in _parts(lines):
        rules = [place for place, line in enumerate(part) if _RULE.match(line.strip())]
        if len(rules) not in (2, 3) or rules[0] != 0 or rules[-1] != len(part) - 1 or not (header or len(rules) == 3):
            held += ["", *part]
            continue
        columns = [match.span() for match in re.finditer("=+", part[0])]
        header = _rows(part[1 : rules[1]], columns)[0] if len(rules) == 3 else header  # else that of the table before
        title, caption = ("", "") if blocks else (TITLE, " ".join(line.strip() for line in held if line))
        blocks += _prose(held) if blocks else []
        blocks.append(Table(header, _rows(part[rules[-2] + 1 : -1], columns), title=title, caption=_plain(caption)))
        held = []
    return blocks + _prose(held) if blocks else [Text("\n".join(lines), title=TITLE)]


def _parts(lines: Sequence[str]) -> list[list[str]]:
    """The lines between empty ones."""
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            parts[-1].append(line)
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _plain(text: str) -> str:
    return text.replace("``", "")


def _prose(lines: Sequence[str]) -> list[Block]:
    return [Prose(lines)] if any(line.strip() for line in lines) else []


def _rows(lines: Sequence[str], columns: Sequence[tuple[int, int]]) -> list[list[str]]:
    """The cells of lines; a line whose first cell is empty goes on where the last one ended."""
    rows: list[list[str]] = []
    ends = [start for start, _ in columns[1:]] + [None]
    for line in lines:
        cells = [_plain(line[start:end].strip()) for (start, _), end in zip(columns, ends, strict=True)]
        if rows and not cells[0]:
            rows[-1] = [f"{held} {more}".strip() for held, more in zip(rows[-1], cells, strict=True)]
        elif any(cells):
            rows.append(cells)
    return rows


@dataclass(frozen=True)
class Prose:
    """Paragraphs and lists.

    Attributes:
        lines: an empty one ends a paragraph; one that begins with ``*`` begins an item; two spaces continue it.
    """

    lines: Sequence[str]

    def html(self, key: str) -> Markup:
        """The paragraphs; what stands between double backquotes is code."""
        return element("div", *(self._part(part) for part in _parts(self.lines)), class_="block wide prose", id=key)

    @staticmethod
    def _part(lines: Sequence[str]) -> Markup:
        if not lines[0].startswith("* "):
            return element("p", _with_code(" ".join(line.strip() for line in lines)))
        items: list[str] = []
        for line in lines:
            if line.startswith("* "):
                items.append(line[2:].strip())
            else:
                items[-1] += f" {line.strip()}"
        return element("ul", *(element("li", _with_code(item)) for item in items))


def _with_code(text: str) -> Markup:
    pieces = text.split("``")
    return join([element("code", piece) if place % 2 else piece for place, piece in enumerate(pieces)])
