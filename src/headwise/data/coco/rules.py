"""The rules that an entry of a COCO file has to keep, each with what is said of one that breaks it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from headwise.data.checks.mistakes import Mistakes

Entry = dict[str, Any]
Size = tuple[int, int]

TWICE = ""
"""The key under which an entry has the name of a field that the file gives it twice."""


class ImageEntry(NamedTuple):
    """A picture: its ``id``, its file as written, and (height, width) in pixels, or None where it is not said."""

    id: int
    file_name: str
    size: Size | None


class CategoryEntry(NamedTuple):
    """A category."""

    id: int
    name: str


class ObjectEntry(NamedTuple):
    """An annotation; its box is x, y, width, height."""

    id: int
    image_id: int
    category_id: int
    bbox: Sequence[float]
    area: float
    iscrowd: int


def keep_rules(
    piece: list[Any], kind: str, start: int, mistakes: Mistakes, read: Callable[[Any], Any] = lambda entry: entry
) -> list[Any]:
    """Return the entries that break no rule.

    Args:
        piece: of a list of the file.
        kind: "image", "annotation" or "category".
        start: the position of the first in the list.
        mistakes: gets the others.
        read: makes an entry of what the list holds.

    Returns:
        `ImageEntry`, `ObjectEntry` or `CategoryEntry`, each.
    """
    found, seen = [], set[int]()
    for position, held in enumerate(piece, start=start):
        what = f"{kind} at position {position}"
        try:
            entry = read(held)
        except (ValueError, RecursionError) as error:
            mistakes.add(what, ValueError(f"{what}: no readable JSON ({error}). Correct it."))
            continue
        given = entry.get("id") if isinstance(entry, dict) else None
        number = whole(given)
        what = what if number is None else f"{kind} {number}"
        with mistakes.gathered(what):
            if number is None:
                raise ValueError(f"{what}: the id must be a whole number, found {given!r}. Add it.")
            if number in seen:
                raise twice(what)
            if TWICE in entry:
                raise ValueError(f"{what}: {entry[TWICE]!r} is given twice. Keep one of them.")
            seen.add(number)
            found.append(_READERS[kind](what, number, entry))
    return found


def twice(what: str) -> ValueError:
    """Return what is said of an entry whose number another has."""
    return ValueError(f"{what}: the id stands for two entries. Give each its own.")


def whole(value: Any) -> int | None:
    """Return a whole number, also one that is written with a point, as table programs do; None for anything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < 2**63 else None


def _image(what: str, number: int, entry: Entry) -> ImageEntry:
    name, size = entry.get("file_name"), (entry.get("height"), entry.get("width"))
    if not isinstance(name, str) or not name:
        raise ValueError(f"{what}: file_name must be a text, found {name!r}. Name the picture's file.")
    if size == (None, None):
        return ImageEntry(number, name, None)
    height, width = map(whole, size)
    if not height or not width or min(height, width) < 1:
        raise ValueError(f"{what}: height and width must be whole numbers above 0, found {size}. Correct them.")
    return ImageEntry(number, name, (height, width))


def _category(what: str, number: int, entry: Entry) -> CategoryEntry:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{what}: the name must be a text, found {name!r}. Name the category.")
    return CategoryEntry(number, name)


def _object(what: str, number: int, entry: Entry) -> ObjectEntry:
    image, category, crowd = whole(entry.get("image_id")), whole(entry.get("category_id")), entry.get("iscrowd", 0)
    if image is None or category is None:
        kind = "image" if image is None else "category"
        given = entry.get(f"{kind}_id")
        raise ValueError(f"{what}: there is no {kind} {given!r}: {kind}_id must be a whole number. Correct it.")
    if crowd not in (0, 1):
        raise ValueError(f"{what}: iscrowd must be 0 or 1, found {crowd!r}. Correct it.")
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{what}: bbox must be four finite numbers x, y, width, height, found {box!r}. Correct it.")
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f"{what}: width and height of bbox must not be negative, found {box!r}. Correct it.")
    area = entry.get("area", box[2] * box[3])
    if not _is_number(area) or area < 0:
        raise ValueError(f"{what}: the area must be a number of at least 0, found {area!r}. Correct or remove it.")
    return ObjectEntry(number, image, category, box, float(area), int(crowd))


_READERS: dict[str, Callable[[str, int, Entry], Any]] = {"image": _image, "category": _category, "annotation": _object}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
