"""What a COCO file says, checked entry by entry before anything is trained on it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwise.data.annotation import BoxAnnotation

Entry = dict[str, Any]


@dataclass(frozen=True)
class ImageEntry:
    """One picture of a COCO file.

    Args:
        number: its ``id``.
        file_name: as written, relative to the folder of pictures.
        size: (height, width) in pixels, or None where the file does not say.
        annotation: its boxes.
    """

    number: int
    file_name: str
    size: tuple[int, int] | None
    annotation: BoxAnnotation


@dataclass(frozen=True)
class CocoContent:
    """A checked COCO file.

    Args:
        class_names: of the labels, sorted by category number.
        category_ids: of the labels, ascending.
        images: sorted by number.
        without_area: numbers of the annotations that were left out because their boxes hold nothing.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[ImageEntry, ...]
    without_area: tuple[int, ...]


@dataclass(frozen=True)
class _Object:
    """One annotation, its box in edges."""

    number: int
    image: int
    label: int
    box: tuple[float, float, float, float]
    area: float
    ignored: bool


def parse_coco(path: Path) -> CocoContent:
    """Read and check a COCO file of instances.

    Args:
        path: the JSON file.

    Returns:
        What it says.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is no JSON, no COCO file, or an entry breaks a rule; the message names file, entry, rule
            and remedy.
    """
    content = _load(path)
    try:
        categories = {number: (label, name) for label, (number, name) in enumerate(_categories(content))}
        images = dict(sorted(_images(content)))
        objects: dict[int, list[_Object]] = {number: [] for number in images}
        without_area = []
        for one in _objects(content, {number: label for number, (label, _) in categories.items()}, images):
            if _has_area(one.box, images[one.image][1]):
                objects[one.image].append(one)
            else:
                without_area.append(one.number)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    entries = [ImageEntry(number, *images[number], _annotation(objects[number])) for number in images]
    names = tuple(name for _, name in categories.values())
    return CocoContent(names, tuple(categories), tuple(entries), tuple(without_area))


def _load(path: Path) -> Entry:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file. Give COCO's JSON of instances.") from None
    except ValueError as error:
        raise ValueError(f"{path}: no readable JSON ({error}). Replace the file; it may be cut off.") from None
    missing = [key for key in ("images", "annotations", "categories") if not _is_list(content, key)]
    if missing:
        raise ValueError(
            f"{path}: no list {', '.join(map(repr, missing))}; COCO's instances have 'images', 'annotations' and "
            "'categories'. Give the file of instances."
        )
    return dict(content)


def _is_list(content: Any, key: str) -> bool:
    return isinstance(content, dict) and isinstance(content.get(key), list)


def _categories(content: Entry) -> list[tuple[int, str]]:
    """Return (number, name), ascending."""
    found: dict[int, str] = {}
    for what, number, entry in _numbered(content["categories"], "category"):
        name = entry.get("name")
        if not isinstance(name, str):
            raise ValueError(f"{what}: the name must be a text, found {name!r}. Name the category.")
        if name in found.values():
            raise ValueError(f"{what}: another category is called {name!r} too. Give each its own name.")
        found[number] = name
    if not found:
        raise ValueError("there are no categories. List what the annotations' category_id stand for.")
    return sorted(found.items())


def _images(content: Entry) -> Iterator[tuple[int, tuple[str, tuple[int, int] | None]]]:
    """Yield (number, (file name, size))."""
    names: dict[str, int] = {}
    for what, number, entry in _numbered(content["images"], "image"):
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{what}: file_name must be a text, found {name!r}. Name the picture's file.")
        if name in names:
            raise ValueError(f"{what}: image {names[name]} has the file {name!r} too. Keep one of them.")
        names[name] = number
        size = (entry.get("height"), entry.get("width"))
        if size == (None, None):
            yield number, (name, None)
            continue
        if not all(type(side) is int and side > 0 for side in size):
            raise ValueError(f"{what}: height and width must be whole numbers above 0, found {size}. Correct them.")
        yield number, (name, (int(size[0] or 0), int(size[1] or 0)))


def _numbered(entries: list[Any], kind: str) -> Iterator[tuple[str, int, Entry]]:
    """Yield (what errors call it, id, entry), each id once."""
    seen: set[int] = set()
    for position, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        if type(number) is not int:
            raise ValueError(f"{kind} at position {position}: the id must be a whole number, found {number!r}. Add it.")
        if number in seen:
            raise ValueError(f"{kind} {number}: the id stands for two entries. Give each its own.")
        seen.add(number)
        yield f"{kind} {number}", number, entry


def _objects(content: Entry, labels: dict[int, int], images: dict[int, Any]) -> Iterator[_Object]:
    for what, number, entry in _numbered(content["annotations"], "annotation"):
        image, category, crowd = entry.get("image_id"), entry.get("category_id"), entry.get("iscrowd", 0)
        if type(image) is not int or image not in images:
            raise ValueError(f"{what}: there is no image {image!r}. Add the image or remove the annotation.")
        if type(category) is not int or category not in labels:
            known = ", ".join(map(str, list(labels)[:10])) + (", ..." if len(labels) > 10 else "")
            raise ValueError(f"{what}: there is no category {category!r}; there are {known}. Correct or add it.")
        if crowd not in (0, 1):
            raise ValueError(f"{what}: iscrowd must be 0 or 1, found {crowd!r}. Correct it.")
        x, y, width, height = _box(what, entry.get("bbox"))
        area = entry.get("area", width * height)
        if not _is_number(area) or area < 0:
            raise ValueError(f"{what}: the area must be a number of at least 0, found {area!r}. Correct or remove it.")
        yield _Object(number, image, labels[category], (x, y, x + width, y + height), float(area), bool(crowd))


def _box(what: str, box: Any) -> tuple[float, float, float, float]:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{what}: bbox must be four finite numbers x, y, width, height, found {box!r}. Correct it.")
    x, y, width, height = map(float, box)
    if width < 0 or height < 0:
        raise ValueError(f"{what}: width and height of bbox must not be negative, found {box!r}. Correct it.")
    return x, y, width, height


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _has_area(box: tuple[float, float, float, float], size: tuple[int, int] | None) -> bool:
    """Say whether a box, as float32, holds a part of its picture."""
    x1, y1, x2, y2 = np.asarray(box, np.float32)
    height, width = size or (math.inf, math.inf)
    return bool(x2 > x1 and y2 > y1 and x2 > 0 and y2 > 0 and x1 < width and y1 < height)


def _annotation(objects: list[_Object]) -> BoxAnnotation:
    return BoxAnnotation(
        np.array([one.box for one in objects], np.float32).reshape(-1, 4),
        np.array([one.label for one in objects], np.int64),
        np.array([one.ignored for one in objects], np.bool_),
        np.array([one.area for one in objects], np.float64),
    )
