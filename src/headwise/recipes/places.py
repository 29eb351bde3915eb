"""Which pictures are to be read, and which files their results get: all names are checked before one is written."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from headwise.data.pictures import ENDINGS
from headwise.files import parse_json

INDEX = "index.json"
RESULTS = "coco_results.json"


class PlannedPicture(NamedTuple):
    """A picture and its results.

    Args:
        path: of the picture.
        name: of its results, without ending, below the folder of results.
        files: the names of its results.
    """

    path: Path
    name: str
    files: tuple[str, ...]


def plan_places(images: Iterable[str | Path], folder: Path, endings: Sequence[str]) -> list[PlannedPicture]:
    """Return where the results of pictures go.

    Args:
        images: files, folders and patterns.
        folder: of the results.
        endings: of a picture's files.

    Returns:
        A place for each picture.

    Raises:
        FileNotFoundError: no such picture, or a folder or pattern without one.
        ValueError: two results would have one name, or one would replace a file that is not an earlier result.
    """
    ours = _written_before(folder)
    results = {(folder / file).resolve() for file in ours}
    places = [
        PlannedPicture(path, name, tuple(f"{name}{ending}" for ending in endings))
        for image in images
        for path, name in _pictures(Path(image), results)
    ]
    _check(places, folder, ours)
    return places


def _pictures(path: Path, results: Set[Path]) -> Iterator[tuple[Path, str]]:
    """Return the pictures that are meant, with the names of their results; of a folder, earlier results are none."""
    if path.is_dir():
        found = [
            each
            for each in sorted(path.rglob("*"))
            if each.suffix.lower() in ENDINGS
            and (each.is_file() or (each.is_symlink() and not each.exists()))  # one that leads nowhere is told
            and not any(part.startswith(".") for part in each.relative_to(path).parts)
            and each.resolve() not in results
        ]
        if not found:
            raise FileNotFoundError(f"{path}: no picture in this folder. Give one with {', '.join(ENDINGS)}.")
        yield from ((each, str(each.relative_to(path).with_suffix("").as_posix())) for each in found)
    elif path.is_file():
        yield path, path.stem
    else:
        matching = sorted(map(Path, glob.glob(str(path), recursive=True))) if glob.has_magic(str(path)) else []
        if not matching:
            raise FileNotFoundError(f"{path}: no such picture. Check the path.")
        for each in matching:
            yield from [(each, each.stem)] if each.is_file() else ()


def _check(places: Sequence[PlannedPicture], folder: Path, ours: Set[str]) -> None:
    pictures = {place.path.resolve() for place in places}
    owners: dict[str, Path | None] = {INDEX: None, RESULTS: None}
    for place in places:
        for file in place.files:
            if file in owners:
                raise ValueError(_clash(place, file, owners[file]))
            owners[file] = place.path
    for file, owner in owners.items():
        target = folder / file
        if target.resolve() in pictures or ((target.exists() or target.is_symlink()) and file not in ours):
            what = "is one of the pictures" if target.resolve() in pictures else "is there already"
            raise ValueError(
                f"{owner or folder}: its result would replace {target}, which {what}. Give another folder with --out."
            )


def _clash(place: PlannedPicture, file: str, other: Path | None) -> str:
    if other is None:
        return f"{place.path}: its result would be called {file!r} as the list of all results. Rename the picture."
    if other.stem == place.path.stem:
        return f"{place.path}: two pictures are called {place.path.stem!r}. Predict them into two folders."
    return f"{place.path}: its result {file!r} would be that of {other} too. Predict them into two folders."


def _written_before(folder: Path) -> frozenset[str]:
    """Return the files that an earlier prediction wrote here, which a new one may replace."""
    try:
        files = parse_json((folder / INDEX).read_bytes())["files"]
        return frozenset(file for file in files if isinstance(file, str))
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()
