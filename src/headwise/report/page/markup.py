"""HTML that is escaped by construction: text becomes markup in one place only."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable
from typing import Any

NOTHING = "\N{EN DASH}"
"""What stands where there is no value."""

_VOID = frozenset({"img", "input", "meta", "br", "wbr"})


class Markup(str):
    """A piece of HTML that is already escaped; every other string is escaped when it is used."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: object) -> Markup:
    """One HTML or SVG element, its text and its attributes escaped.

    Args:
        name: the tag.
        *children: pieces of `Markup`, taken as they are, or plain text, which is escaped.
        **attributes: a trailing `_` is dropped (`class_`), other `_` become `-`, `None` and `False` leave the
            attribute out, `True` writes it without a value. `Markup` is taken whole, as it is: pictures and outlines
            are longer than any text may be.

    Returns:
        The element.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        held = value.replace('"', "&quot;") if isinstance(value, Markup) else html.escape(visible(str(value)))
        written.append(f" {attribute}" if value is True else f' {attribute}="{held}"')
    opening = f"<{name}{''.join(written)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def join(pieces: Iterable[str]) -> Markup:
    """The pieces one after the other, plain text among them escaped."""
    return Markup(
        "".join(piece if isinstance(piece, Markup) else html.escape(visible(piece), quote=False) for piece in pieces)
    )


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 4_000


def visible(text: str) -> str:
    """Text as it can stand on a page, in a picture and in a file, whoever wrote it.

    Args:
        text: of a term, a file or a configuration.

    Returns:
        The same, with what would turn the direction of its line, end it, or cannot be written in UTF-8 as an escape
        (a backslash, u and four digits), and without the end of a line of more than 4,000 characters.
    """
    shown = _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return "\n".join(shortened(line, _LONGEST) for line in shown.split("\n"))


def shortened(text: str, most: int) -> str:
    """The beginning of a text that is longer than `most` characters, with how many there are."""
    return text if len(text) <= most else f"{text[: most - 24]}\N{HORIZONTAL ELLIPSIS} ({len(text):,} characters)"


def slug(title: str) -> str:
    """A title as it can stand in an address or in a file's name: `Share of the total` becomes `share-of-the-total`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()[:_SLUG]).strip("-") or "figure"


_SLUG = 80
"""Characters of a title that count."""


def breakable(name: str) -> Markup:
    """A name that may break after an underscore, a dot, a slash or a comma where there is little room.

    It does not break before a few last letters: `layer.12` stays whole.
    """
    first, *others = re.split(r"(?<=[_./,|])(?=[^_./,|]{4})", name)
    return join([first, *(piece for part in others for piece in (element("wbr"), part))])


def embedded_json(data: Any) -> Markup:
    """A `<script>` element that holds `data`, in which no text can end the script or the page.

    Args:
        data: anything JSON can say; non-finite numbers must have been through `plain` first.

    Returns:
        The element, of a type that browsers do not execute.
    """
    text = json.dumps(_visible(data), allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json">{text}</script>')


def _visible(data: Any) -> Any:
    """The same data with every text as it can stand on a page; long lists of numbers stay as they are."""
    if isinstance(data, str):
        return visible(data)
    if isinstance(data, dict):
        return {key: _visible(value) for key, value in data.items()}
    if isinstance(data, list | tuple) and not all(isinstance(value, int | float | None) for value in data):
        return [_visible(value) for value in data]
    return data


def plain(value: float | None) -> float | int | str | None:
    """`value` for JSON: 7 significant digits (float32 has no more), non-finite numbers as their names."""
    if value is None:
        return None
    if not math.isfinite(value):
        return number(value)
    rounded = float(f"{value:.7g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e7 else rounded


def number(value: float | None) -> str:
    """`value` for readers: 4 significant digits, a dash for nothing."""
    if value is None:
        return NOTHING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if float(value).is_integer() and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.4g}"


def percent(value: float | None) -> str:
    """A share for readers, one decimal."""
    return f"{value:.1%}" if value is not None and math.isfinite(value) else number(value)
