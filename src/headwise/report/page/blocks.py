"""What sections show: tables, tiles, remarks, text, and the frame of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from headwise.report.page.markup import Markup, element, join, number, slug
from headwise.tabular import is_number

ROOM_BESIDE = 790
"""Pixels of a figure's width that leave room for a table beside it, on a broad screen."""

_SHORT = 24  # letters that stay on one line in a table


class Block(Protocol):
    """Something a section shows."""

    def html(self, key: str) -> Markup:
        """The block as HTML; `key` is unlike any other on the page."""


@dataclass(frozen=True)
class Table:
    """A table whose columns sort on a click.

    Attributes:
        header: a name per column.
        rows: per row a value per column: text, a number, `None`, or `Markup`.
        title: the caption.
        caption: how to read it, below.
        folded: show only the title until asked.
        bare: without a frame of its own, for use inside another block.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    caption: str = ""
    folded: bool = False
    bare: bool = False

    def html(self, key: str) -> Markup:
        """The table, in a frame that scrolls sideways by itself."""
        heads = [element("th", element("button", name, type="button"), scope="col") for name in self.header]
        body = [element("tr", *(_cell(value, first=not place) for place, value in enumerate(row))) for row in self.rows]
        table = element(
            "table",
            element("thead", element("tr", *heads)),
            element("tbody", *body),
            class_="data",
            id=f"{key}-table",
        )
        framed = element("div", table, class_="scroll", tabindex=0, role="region", aria_label=self.title or "Numbers")
        if self.folded:
            framed = element("details", element("summary", self.title or "Numbers"), framed)
        if self.bare:
            return framed
        heading = [element("h3", self.title, id=anchor(self.title))] if self.title and not self.folded else []
        note = [element("p", self.caption, class_="note")] if self.caption else []
        return element("div", *heading, framed, *note, class_="block wide", id=key)


@dataclass(frozen=True)
class Tiles:
    """A row of facts, each a large value over a small name.

    Attributes:
        facts: name, value, and a remark.
        title: whose facts they are; empty where the page is on one run.
    """

    facts: Sequence[tuple[str, str, str]]
    title: str = ""

    def html(self, key: str) -> Markup:
        """The row; it wraps where the page is narrow."""
        tiles = [
            element("div", element("dt", name), element("dd", value), element("dd", remark, class_="remark"))
            for name, value, remark in self.facts
        ]
        heading = [element("h3", self.title)] if self.title else []
        return element("div", *heading, element("dl", *tiles, class_="tiles"), class_="wide", id=key)


class Remark(NamedTuple):
    """A finding in words.

    Attributes:
        kind: alert, problem, note, good or books.
        text: the sentence.
        figure: title of the figure on the same page that shows it; empty for none.
    """

    kind: str
    text: str
    figure: str = ""


@dataclass(frozen=True)
class Remarks:
    """Findings in words, the gravest first.

    Attributes:
        items: each a `Remark`, or its kind and its text.
    """

    items: Sequence[Remark | tuple[str, str]]

    def html(self, key: str) -> Markup:
        """A list; the kind is said in a word, not by color alone."""
        rows = []
        for kind, text, figure in (Remark(*item) for item in self.items):
            link = [Markup(" "), element("a", figure, href=f"#{anchor(figure)}")] if figure else []
            word = element("strong", kind.capitalize())
            rows.append(element("li", word, join([" ", text]), *link, class_=f"remark-{kind}"))
        return element("ul", *rows, class_="remarks wide", id=key)


@dataclass(frozen=True)
class Text:
    """Text as it is, line by line, in letters of one width.

    Attributes:
        text: what to show.
        title: a heading above it.
    """

    text: str
    title: str = ""

    def html(self, key: str) -> Markup:
        """The text in a frame that scrolls by itself."""
        heading = [element("h3", self.title)] if self.title else []
        frame = element("pre", self.text, class_="scroll", tabindex=0, role="region", aria_label=self.title or "Text")
        return element("div", *heading, frame, class_="block wide", id=key)


def anchor(title: str) -> str:
    """Where a link to the figure of a title leads."""
    return f"figure-{slug(title)}"


def figure(key: str, title: str, *content: str, caption: str = "", wide: bool = False) -> Markup:
    """A titled figure with the sentence that says how to read it.

    Args:
        key: its identifier on the page.
        title: what is shown.
        *content: the picture and what belongs to it.
        caption: what was measured, at which level, and how to read it.
        wide: take the whole width.

    Returns:
        The figure.
    """
    heading = element("h3", title, id=anchor(title))
    words = [element("figcaption", caption)] if caption else []
    return element("figure", heading, *content, *words, id=key, class_="block wide" if wide else "block")


def _cell(value: object, *, first: bool) -> Markup:
    name = "th" if first else "td"
    scope = "row" if first else None
    if isinstance(value, Markup):
        return element(name, value, scope=scope)
    if value is None or is_number(value):
        return element(name, number(value), scope=scope, class_="number", data_value=value)
    text = str(value)
    return element(name, text, scope=scope, class_="short" if len(text) <= _SHORT and not first else None)
