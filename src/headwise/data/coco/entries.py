"""The entries of a COCO file, read a piece at a time.

As Python's objects a file of 100 MB is five times as large, most of it outlines that nobody reads here. So msgspec,
where it is installed, splits the file, and reads each piece into the few fields that count. What it refuses, and
everything where it is missing, the standard library reads, and every entry is looked at by itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import GenericAlias
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwise.data.checks.mistakes import Mistakes
from headwise.data.coco.rules import TWICE, CategoryEntry, ImageEntry, keep_rules, whole

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Lists = dict[str, list[Any]]

_KEYS = ("images", "annotations", "categories")
_READ = frozenset(
    (*_KEYS, "id", "name", "file_name", "height", "width", "image_id", "category_id", "bbox", "area", "iscrowd")
)
_PIECE = 4096  # entries that are Python's objects at one time


class ObjectColumns(NamedTuple):
    """Annotations by columns: (n,) each, boxes (n, 4) x, y, width, height."""

    numbers: Integers
    images: Integers
    categories: Integers
    boxes: Floats
    areas: Floats
    crowds: Integers

    @classmethod
    def of(cls, objects: list[Any]) -> ObjectColumns:
        """Lay objects with the fields of `ObjectEntry` out; an area that is not finite is the box's."""
        boxes = np.array([one.bbox for one in objects], np.float64).reshape(-1, 4)
        areas = np.array([one.area for one in objects], np.float64)
        return cls(
            np.array([one.id for one in objects], np.int64),
            np.array([one.image_id for one in objects], np.int64),
            np.array([one.category_id for one in objects], np.int64),
            boxes,
            np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
            np.array([one.iscrowd for one in objects], np.int64),
        )

    @classmethod
    def within_64_bits(cls, objects: list[Any] | None) -> ObjectColumns | None:
        """The same, or None where there are none, or where a number is larger."""
        try:
            return None if objects is None else cls.of(objects)
        except OverflowError:
            return None

    @classmethod
    def joined(cls, parts: list[ObjectColumns]) -> ObjectColumns:
        """Put pieces together."""
        return cls(*map(np.concatenate, zip(cls.of([]), *parts, strict=True)))

    def keeps_rules(self) -> bool:
        """Whether no value has to be explained to the user."""
        return bool(
            (self.boxes[:, 2:] >= 0).all()
            and (self.areas >= 0).all()
            and ((self.crowds == 0) | (self.crowds == 1)).all()
        )


def load_lists(path: Path, keys: Sequence[str] = _KEYS) -> Lists:
    """Read a COCO file into its lists, whose entries may still be text where msgspec is installed.

    Args:
        path: the JSON file.
        keys: of the lists that it must have.

    Returns:
        ``images``, ``annotations`` and ``categories``, or those that were asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or has not these lists.
    """
    return (_split(path) if keys == _KEYS else None) or _load(path, keys)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file. Give COCO's JSON of instances.") from None


def _text(path: Path) -> str:
    """The file's text, without its bytes: each is as large as the file."""
    content = _bytes(path)
    return content.decode(json.detect_encoding(content), "surrogatepass")


def read_images(listed: list[Any], mistakes: Mistakes) -> Iterator[ImageEntry]:
    """Yield the pictures of a file.

    Args:
        listed: of `load_lists`.
        mistakes: get those that break a rule.

    Yields:
        One entry each.
    """
    for start, piece, structs in _pieces(listed, "image"):
        sizes = [(one.height, one.width) for one in structs or ()]
        if (
            structs
            and all(one.file_name and whole(one.id) is not None for one in structs)
            and all(map(_is_size, sizes))
        ):
            for one, size in zip(structs, sizes, strict=True):
                yield ImageEntry(one.id, one.file_name, None if size == (None, None) else size)
        else:
            yield from keep_rules(piece, "image", start, mistakes, _plain)


def read_categories(listed: list[Any], mistakes: Mistakes) -> list[CategoryEntry]:
    """Return the categories of a file.

    Args:
        listed: of `load_lists`.
        mistakes: get those that break a rule.

    Returns:
        One entry each, in the order of the file.
    """
    return keep_rules(listed, "category", 0, mistakes, _plain)


def read_objects(listed: list[Any], mistakes: Mistakes) -> ObjectColumns:
    """Return the annotations of a file.

    Args:
        listed: of `load_lists`.
        mistakes: get those that break a rule.

    Returns:
        The others, in the order of the file.
    """
    parts = []
    for start, piece, structs in _pieces(listed, "annotation"):
        columns = ObjectColumns.within_64_bits(structs)
        if columns is None or not columns.keeps_rules():
            columns = ObjectColumns.of(keep_rules(piece, "annotation", start, mistakes, _plain))
        parts.append(columns)
    # Unread entries hold the whole text of the file.
    del listed
    return ObjectColumns.joined(parts)


def _is_size(size: tuple[int | None, int | None]) -> bool:
    height, width = size
    return size == (None, None) or (height is not None and width is not None and min(height, width) > 0)


def _load(path: Path, keys: Sequence[str]) -> Lists:
    """Read a file by the standard library, which makes objects of all of it: what nobody reads is dropped at once."""
    try:
        content = json.loads(_text(path), object_pairs_hook=_read_parts)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no readable JSON ({error}). Replace the file; it may be cut off.") from None
    missing = [key for key in keys if not (isinstance(content, dict) and isinstance(content.get(key), list))]
    if missing:
        raise ValueError(
            f"{path}: no list {', '.join(map(repr, missing))}; COCO's instances have 'images', 'annotations' and "
            "'categories'. Give the file of instances."
        )
    if TWICE in content:
        raise ValueError(f"{path}: {content[TWICE]!r} is given twice, and only one of them would count. Keep one.")
    return {key: content[key] for key in keys}


def _read_parts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the file without what is not read of it: outlines are most of a file."""
    names = [name for name, _ in pairs if name in _READ]
    entry = {name: value for name, value in pairs if name in _READ}
    if len(entry) < len(names):
        entry[TWICE] = next(name for name in names if names.count(name) > 1)
    return entry


def _pieces(listed: list[Any], kind: str) -> Iterator[tuple[int, list[Any], list[Any] | None]]:
    """Yield the position of each piece, the piece, and its structs, or None where msgspec is missing or refuses it."""
    for start in range(0, len(listed), _PIECE):
        piece = listed[start : start + _PIECE]
        yield start, piece, _structs(piece, kind)


def _plain(entry: Any) -> Any:
    """An entry as Python's objects."""
    library = _msgspec()
    if library is None or not isinstance(entry, library.Raw):
        return entry
    return json.loads(bytes(entry), object_pairs_hook=_read_parts)


@lru_cache(maxsize=1)
def _msgspec() -> Any:
    """The library, or None: it only saves time and memory."""
    try:
        import msgspec
    except ImportError:
        return None
    return msgspec


_FIELDS: dict[str, list[Any]] = {
    "image": [("id", int), ("file_name", str), ("height", int | None, None), ("width", int | None, None)],
    "annotation": [
        *((name, int) for name in ("id", "image_id", "category_id")),
        ("bbox", tuple[float, float, float, float]),
        ("area", float, math.nan),
        ("iscrowd", int, 0),
    ],
}


@lru_cache(maxsize=1)
def _decoders() -> dict[str, Any]:
    """A decoder of the whole file, and of the pieces of each kind."""
    library = _msgspec()
    made = {kind: library.defstruct(kind.title(), fields, gc=False) for kind, fields in _FIELDS.items()}
    file = library.defstruct("File", [(key, GenericAlias(list, library.Raw)) for key in _KEYS])
    decoder = library.json.Decoder
    return {"file": decoder(file), **{kind: decoder(GenericAlias(list, each)) for kind, each in made.items()}}


def _split(path: Path) -> Lists | None:
    """The lists of a file; None where the standard library has to say what is wrong with it, or msgspec is missing."""
    library = _msgspec()
    if library is None:
        return None
    content = _bytes(path)
    try:
        lists = _decoders()["file"].decode(content)
    except (library.DecodeError, UnicodeError, RecursionError):
        return None
    return None if _may_be_twice(content, _KEYS, 1) else {key: getattr(lists, key) for key in _KEYS}


def _may_be_twice(content: bytes, names: Iterable[str], most: int) -> bool:
    """Whether more fields have one of these names than there are objects: msgspec takes the last of two in silence."""
    return any(content.count(f'"{name}"'.encode()) > most for name in names)


def _structs(piece: list[Any], kind: str) -> list[Any] | None:
    """The entries of a piece; None where one of them has to be looked at by itself."""
    library = _msgspec()
    if library is None or not isinstance(piece[0], library.Raw):
        return None
    content = b"[" + b",".join(piece) + b"]"
    try:
        found: list[Any] = _decoders()[kind].decode(content)
    except (library.DecodeError, UnicodeError, RecursionError):
        return None
    return None if _may_be_twice(content, (name for name, *_ in _FIELDS[kind]), len(piece)) else found
