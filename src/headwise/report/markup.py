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
            attribute out, `True` writes it without a value.

    Returns:
        The element.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        written.append(f" {attribute}" if value is True else f' {attribute}="{html.escape(str(value))}"')
    opening = f"<{name}{''.join(written)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def join(pieces: Iterable[str]) -> Markup:
    """The pieces one after the other, plain text among them escaped."""
    return Markup("".join(piece if isinstance(piece, Markup) else html.escape(piece, quote=False) for piece in pieces))


def breakable(name: str) -> Markup:
    """A name that may break after an underscore, a dot, a slash or a comma where there is little room."""
    first, *others = re.split(r"(?<=[_./,|])", name)
    return join([first, *(piece for part in others for piece in (element("wbr"), part))])


def embedded_json(data: Any) -> Markup:
    """A `<script>` element that holds `data`, in which no text can end the script or the page.

    Args:
        data: anything JSON can say; non-finite numbers must have been through `plain` first.

    Returns:
        The element, of a type that browsers do not execute.
    """
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json">{text}</script>')


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
