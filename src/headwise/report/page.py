"""The building blocks of a page: sections of blocks, written as one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Protocol

from headwise.files import refuse_to_replace, write_atomically
from headwise.report.markup import Markup, element, join, number, slug

ROOM_BESIDE = 790
"""Pixels of a figure's width that leave room for a table beside it, on a broad screen."""

_SHORT = 24  # letters that stay on one line in a table
_SCRIPTS = ("scales.js", "charts.js", "page.js")


class Block(Protocol):
    """Something a section shows."""

    def html(self, key: str) -> Markup:
        """The block as HTML; `key` is unlike any other on the page."""


_DOCTYPE = "<!doctype html>\n"
_MARKS = (element("meta", charset="utf-8"), element("meta", name="generator", content="Headwise"))
_OPENING = f'{_DOCTYPE}<html lang="en"><head>{join(_MARKS)}'
"""What each page of ours begins with."""


def refuse_other_page(path: Path) -> None:
    """Refuses a path where something lies that is no page of ours, such as a page that the user wrote.

    Args:
        path: where a page is to be written.

    Raises:
        ValueError: there is such a file.
    """
    refuse_to_replace(path, _OPENING, "page of Headwise")


@dataclass(frozen=True)
class Section:
    """A titled part of a page.

    Attributes:
        title: also the entry in the page's navigation.
        blocks: what it shows, in order; charts and pictures stand side by side where there is room.
        lead: a sentence or two above the blocks.
    """

    title: str
    blocks: Sequence[Block]
    lead: str = ""

    def html(self, key: str) -> Markup:
        """The section; its blocks get keys that extend `key`."""
        lead = [element("p", self.lead, class_="lead")] if self.lead else []
        blocks = [block.html(f"{key}-{index}") for index, block in enumerate(self.blocks)]
        grid = element("div", *blocks, class_="grid")
        return element("section", element("h2", self.title), *lead, grid, id=key)


class Page:
    """One self-contained page: styles, scripts, data and pictures are inside it.

    Args:
        title: of the document and its first heading.
        subtitle: a line under it.
        version: of a page that asks its server for a newer one, and takes over what has changed; empty: it is a file.

    Attributes:
        sections: what it shows, in order.
    """

    def __init__(self, title: str, subtitle: str = "", version: str = "") -> None:
        self.title = title
        self.version = version
        self.subtitle = subtitle
        self.sections: list[Section] = []

    def add(self, section: Section) -> Page:
        """Append a section.

        Args:
            section: what comes next on the page.

        Returns:
            The page itself, so that calls chain.
        """
        self.sections.append(section)
        return self

    def html(self) -> str:
        """The document."""
        body = element(
            "body",
            element("header", element("h1", self.title), element("p", self.subtitle, class_="subtitle")),
            self._navigation(),
            element("main", *(part.html(f"s{index}") for index, part in enumerate(self.sections))),
            _hatches(),
            element("div", class_="tip", role="status", hidden=True),
            *(element("script", Markup(_asset(name))) for name in self._scripts),
            data_version=self.version or None,
        )
        return _DOCTYPE + element("html", self._head(), body, lang="en") + "\n"

    def write(self, path: Path) -> Path:
        """Write the document, whole or not at all.

        Args:
            path: the HTML file; its folder is made where it is missing.

        Returns:
            `path`.

        Raises:
            ValueError: a file that is no page of ours is there, or it cannot be written.
        """
        refuse_other_page(Path(path))
        return write_atomically(Path(path), self.html().encode())

    @property
    def _scripts(self) -> tuple[str, ...]:
        return (*_SCRIPTS[:-1], "live.js", _SCRIPTS[-1]) if self.version else _SCRIPTS

    @property
    def policy(self) -> str:
        """What the page may do: show pictures that are in it, run and apply what this package wrote, by its hash."""
        scripts = " ".join(_hash(_asset(name)) for name in self._scripts)
        asks = "; connect-src 'self'" if self.version else ""
        style = f"style-src {_hash(_style())}"
        return f"default-src 'none'; img-src data:; {style}; script-src {scripts}; base-uri 'none'{asks}"

    def _head(self) -> Markup:
        return element(
            "head",
            *_MARKS,
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=self.policy),
            element("meta", name="color-scheme", content="light dark"),
            element("title", self.title),
            element("style", Markup(_style())),
        )

    def _navigation(self) -> Markup:
        links = [element("a", part.title, href=f"#s{index}") for index, part in enumerate(self.sections) if part.title]
        return element("nav", *links, aria_label="Sections")


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
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return element(name, number(value), scope=scope, class_="number", data_value=value)
    text = str(value)
    return element(name, text, scope=scope, class_="short" if len(text) <= _SHORT and not first else None)


def _hatches() -> Markup:
    """Patterns that stacked areas lay over their colors, so that they differ without them."""
    strokes = ("M0 8L8 0", "M0 0L8 8", "M4 0V8", "M0 4H8", "M0 8L8 0M0 0L8 8", "M4 0V8M0 4H8", "M4 3V5")
    patterns = [
        element(
            "pattern", element("path", d=stroke),
            id=f"hatch{index}", width=8, height=8, patternUnits="userSpaceOnUse",
        )
        for index, stroke in enumerate(strokes, start=1)
    ]  # fmt: skip
    return element("svg", element("defs", *patterns), width=0, height=0, class_="hatches", aria_hidden="true")


SHADES = 100
"""Steps of darkness of a heat map's cells, each a class: the page allows no styles of single elements."""


def _style() -> str:
    shades = "".join(f".v{step}{{--v:{step / SHADES:g}}}" for step in range(SHADES + 1))
    return f"{_asset('page.css')}{shades}\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (files("headwise.report") / "assets" / name).read_text(encoding="utf-8")
