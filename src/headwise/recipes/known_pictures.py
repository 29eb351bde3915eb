"""Whether pictures are those that an annotation file means: files of two splits often have the same names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headwise.data.coco.files import split_of
from headwise.data.coco.places import find_pictures
from headwise.data.coco.rules import ImageEntry
from headwise.data.pictures import load_picture, opened

_COMPARED = 20
_ALIKE = 0.9
"""Least correlation of two small gray pictures of one scene, compressed or blurred though one may be."""
_SIDE = 32


def check_pictures(file: Path, entries: Mapping[Path, ImageEntry]) -> None:
    """Refuses pictures that only have the names of those in an annotation file, and says what cannot be told.

    Args:
        file: the annotation file.
        entries: of each picture its entry among the file's ``images``.

    Raises:
        ValueError: sizes differ, or where the file's own pictures are found, most of what they show does.
    """
    _check_sizes(file, entries)
    own = _own_pictures(file, entries)
    if own is None:
        sizes = {each.size for each in entries.values()}
        if len(sizes) < min(2, len(entries)) or None in sizes:
            warnings.warn(
                f"{file}: pictures have their numbers by file name alone: its own are not found, and sizes tell "
                "nothing. Make sure that the file belongs to the pictures.",
                stacklevel=4,
            )
        return
    apart = [pair for pair in own if not _are_one(*pair)]
    compared = apart[:: max(1, len(apart) // _COMPARED)]
    others = [pair for pair in compared if _differ(*pair)]
    if 2 * len(others) > len(compared):
        given, known = others[0]
        raise ValueError(
            f"{file}: {given} is named like a picture of this file, {known}, and shows something else (so do "
            f"{len(others)} of {len(compared)} that were compared). Give the file that belongs to the pictures."
        )


def _check_sizes(file: Path, entries: Mapping[Path, ImageEntry]) -> None:
    others = []
    for path, entry in entries.items():
        size = _size(path)
        # Either way up: annotations are made on what is displayed, or on what is stored.
        if size is not None and entry.size is not None and sorted(size) != sorted(entry.size):
            height, width = entry.size
            others.append(f"{path} has {size[0]} x {size[1]} pixels, image {entry.id} {width} x {height}")
    if others:
        raise ValueError(
            f"{file}: {len(others)} of {len(entries)} pictures have the names of this file's, and other sizes: "
            f"{others[0]}. Give the file that belongs to the pictures, and the pictures as they were annotated."
        )


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height as stored; None of a file that cannot be used, which is told where it is read."""
    try:
        with opened(path) as picture:
            return picture.size
    except (OSError, ValueError):
        return None


def _own_pictures(file: Path, entries: Mapping[Path, ImageEntry]) -> list[tuple[Path, Path]] | None:
    """Each picture with the one that lies where the file says; None where they are not there."""
    try:
        names = [(entry.id, entry.file_name) for entry in entries.values()]
        return list(zip(entries, map(Path, find_pictures(file, split_of(file), names)), strict=True))
    except (OSError, ValueError):
        return None


def _are_one(given: Path, known: Path) -> bool:
    """Whether two paths are one file, or one leads nowhere, which is told where it is read."""
    try:
        return given.samefile(known)
    except OSError:
        return True


def _differ(given: Path, known: Path) -> bool:
    """Whether two pictures show different things; those that cannot be read, or show nothing, differ from none."""
    try:
        if given.read_bytes() == known.read_bytes():
            return False
        one, other = (_small(load_picture(path)) for path in (given, known))
    except (OSError, ValueError):
        return False
    spread = float(np.linalg.norm(one) * np.linalg.norm(other))
    return spread > 0 and float((one * other).sum()) < _ALIKE * spread


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A picture in gray, `_SIDE` pixels a side, less its mean."""
    from PIL import Image

    small: NDArray[np.float64] = np.array(Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE)), np.float64)
    small -= small.mean()
    return small
