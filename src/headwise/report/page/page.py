"""A page: sections of blocks, written as one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from headwise.files import refuse_to_replace, write_atomically
from headwise.report.page.blocks import Block
from headwise.report.page.markup import Markup, element, join

SHADES = 100
"""Steps of darkness of a heat map's cells, each a class: the page allows no styles of single elements."""

_SCRIPTS = ("scales.js", "charts.js", "page.js")


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


def _style() -> str:
    shades = "".join(f".v{step}{{--v:{step / SHADES:g}}}" for step in range(SHADES + 1))
    return f"{_asset('page.css')}{shades}\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (files("headwise.report") / "assets" / name).read_text(encoding="utf-8")
