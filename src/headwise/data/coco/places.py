"""Where the pictures of a COCO file lie: `file_name` as each tool writes it."""

from __future__ import annotations

import os
import random
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from headwise.data.checks.mistakes import Mistakes
from headwise.data.split_names import contradict
from headwise.files import composed

_SAMPLED = 200  # names by which folders are compared


class _Listing(NamedTuple):
    """The files of a folder: as they are called, and by their composed names."""

    names: frozenset[str]
    composed: dict[str, str]


class _Root(NamedTuple):
    """A folder, and how many leading parts of each ``file_name`` are not meant below it."""

    folder: str
    dropped: int


def find_pictures(file: Path, split: str, images: Sequence[tuple[int, str]]) -> list[str]:
    """Find the picture of each image of a COCO file.

    Names are relative to the split's folder of pictures, to the root of the data set, or absolute; they may have
    backslashes, leading parts that are not below these folders, and accents composed otherwise than the files'.

    Args:
        file: the COCO file.
        split: its name, or "".
        images: (number, ``file_name``) of each.

    Returns:
        The paths, in that order.

    Raises:
        FileNotFoundError: pictures are missing: the first is named, the others are counted.
        ValueError: two images have one file.
    """
    looker, folders = _Looker(), _folders(file, split)
    place = looker.best_place(folders, [name for _, name in images])
    if place is None:
        first, there = images[0][1], [each for each in dict.fromkeys(folders) if os.path.isdir(each)]
        raise FileNotFoundError(
            f"{file}: its first picture {first!r} is in none of {', '.join(there)}."
            f"{looker.hint(there, first) or f' Put the pictures into {folders[0]}.'}"
        )
    mistakes, owners = Mistakes(), dict[str, int]()
    for number, name in images:
        path = looker.find(place, name)
        if path is None:
            mistakes.add(name, FileNotFoundError(looker.missing(place, name, file, number)))
        elif path in owners:
            twice = f"{file}: image {number}: image {owners[path]} has the file {path} too. Keep one of them."
            mistakes.add(name, ValueError(twice))
        else:
            owners[path] = number
    mistakes.refuse()
    return list(owners)


def _folders(file: Path, split: str) -> list[str]:
    """The folders in which a file's pictures may lie, the likeliest first."""
    roots = (file.parent.parent, file.parent)
    own = [split, f"images/{split}", f"{split}/images", f"{split}/data", f"data/{split}"] if split else []
    return [str(root / place) for root in roots for place in (*own, "images", "data")] + [
        str(root) for root in reversed(roots)
    ]


class _Looker:
    """Looks names up in listings of folders, each made once."""

    def __init__(self) -> None:
        self._list = lru_cache(maxsize=None)(_listing)
        self._by_bare_names = lru_cache(maxsize=None)(
            lambda folder: {_bare(name): name for name in sorted(self._list(folder).names)}
        )

    def best_place(self, folders: Sequence[str], names: Sequence[str]) -> _Root | None:
        """The place that holds most pictures of a sample; of several, where least is dropped, then the likeliest."""
        # Drawn, for every second or tenth name may be of a kind of its own.
        sample = random.Random(0).sample(names, min(len(names), _SAMPLED))
        best, most = None, 0
        for dropped in range(max(name.replace("\\", "/").count("/") for name in sample) + 1):
            for folder in folders:
                place = _Root(folder, dropped)
                held = [path for path in (self.find(place, name) for name in sample) if path is not None]
                # Without their leading parts, the names of different pictures may be the same.
                count = len(held) if not dropped or len(set(held)) == len(sample) else 0
                if count > most:
                    best, most = place, count
            if most == len(sample):
                break
        return best

    def find(self, place: _Root, name: str) -> str | None:
        """The picture of that name, or None."""
        for reading in _readings(name):
            below = _below(place, reading)
            if below is None:
                continue
            folder, _, base = below.rpartition("/")
            if base in self._list(folder).names:
                return below.replace("/./", "/")
            for spelling in _spellings(folder):
                called = self._list(spelling).composed.get(composed(base))
                if called is not None:
                    return f"{spelling}/{called}"
        return None

    def missing(self, place: _Root, name: str, file: Path, number: int) -> str:
        """What is said of a picture that is not there."""
        path = Path(_below(place, list(_readings(name))[-1]) or name)
        hint = self.hint([str(path.parent)], path.name)
        return (
            f"{path}: no such picture, but {file} lists it as image {number}.{hint} Add the picture, or remove the "
            "image and its annotations."
        )

    def hint(self, folders: Sequence[str], name: str) -> str:
        """What is said of a file that is called nearly so; nothing where there is none."""
        base = name.replace("\\", "/").rpartition("/")[2]
        for folder in folders:
            called = self._by_bare_names(folder).get(_bare(base))
            if called is not None:
                case = ", which differs in upper and lower case" if called.casefold() == base.casefold() else ""
                return f" There is {called!r} in {folder}{case}: list the pictures as their files are called."
        return ""


def _readings(name: str) -> list[str]:
    """A name as it is, and with its backslashes between folders."""
    return [name, name.replace("\\", "/")] if "\\" in name else [name]


def _below(place: _Root, name: str) -> str | None:
    """The path of a name at a place; None where too much is dropped of it, or the name of another split."""
    if not place.dropped:
        return name if name.startswith("/") else f"{place.folder}/{name}"
    parts = name.split("/", place.dropped)
    if len(parts) <= place.dropped or contradict(parts[-2], os.path.basename(place.folder)):
        return None
    return f"{place.folder}/{parts[-1]}"


def _spellings(folder: str) -> list[str]:
    """A folder, and the same with its accents in one letter or apart, if it has any."""
    if folder.isascii():
        return [folder]
    return [folder, *(unicodedata.normalize(form, folder) for form in ("NFC", "NFD"))]


def _bare(name: str) -> str:
    """A name as browsers, tables and converters leave it: without its ending, its spelling, what was escaped in it."""
    return os.path.splitext(unquote(name).strip())[0].casefold()


def _listing(folder: str) -> _Listing:
    try:
        names = frozenset(os.listdir(folder or "/"))
    except OSError:
        names = frozenset()
    return _Listing(names, {composed(name): name for name in names})
