"""COCO's list of results: the boxes on all pictures, by the numbers of an annotation file."""

from __future__ import annotations

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from headwise.data.checks.mistakes import Mistakes
from headwise.data.coco.content import distinct_categories
from headwise.data.coco.entries import load_lists, read_categories, read_images
from headwise.data.coco.rules import ImageEntry, twice
from headwise.files import composed, write_atomically
from headwise.recipes.configuration import Configuration
from headwise.recipes.known_pictures import check_pictures


class ImageIds:
    """The numbers of pictures and classes in a list of results.

    Args:
        paths: of the pictures.
        annotations: a COCO file; None to number the pictures from 1 and keep the run's classes.
        configuration: of the run.

    Attributes:
        categories: COCO's number of each label; empty where the recipe finds no boxes.

    Raises:
        ValueError: the recipe finds no boxes, it is no COCO file, its entries break rules, it lacks a class of the run,
            it lists none of the pictures, or other pictures of their names.
        OSError: the file cannot be read.
    """

    def __init__(self, paths: Sequence[Path], annotations: str | Path | None, configuration: Configuration) -> None:
        self.categories: tuple[int, ...] = tuple(getattr(configuration, "category_ids", ()))
        self._numbers: dict[Path, int] = {path: number for number, path in enumerate(paths, start=1)}
        if annotations is None:
            return
        if not self.categories:
            raise ValueError(f"{annotations}: this run finds no boxes, so there is no list of results. Leave it out.")
        file = Path(annotations)
        images, self.categories = _read(file, getattr(configuration, "class_names", ()))
        self._numbers = _match(paths, images, file)

    def of(self, path: Path) -> int | None:
        """Return the number of a picture; None for one that the annotation file does not list."""
        return self._numbers.get(path)

    def entries(self, path: Path, boxes: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Return the entries of a picture.

        Args:
            path: of the picture.
            boxes: ``boxes``, ``scores`` and ``labels``; None for none.

        Returns:
            One for each box: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and ``score``.
        """
        number = self.of(path)
        if boxes is None or number is None:
            return []
        rows = zip(boxes["boxes"].tolist(), boxes["scores"].tolist(), boxes["labels"].tolist(), strict=True)
        return [
            {
                "image_id": number,
                "category_id": self.categories[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), score, label in rows
        ]

    def lines(self, path: Path, boxes: Mapping[str, Any] | None) -> bytes:
        """Return the entries of a picture as JSON, one a line: a fifth of their size as Python's objects."""
        return b",\n".join(json.dumps(entry).encode() for entry in self.entries(path, boxes))


def write_results(path: Path, lines: Iterable[bytes]) -> None:
    """Write a list of results, whole or not at all.

    Args:
        path: the JSON file.
        lines: of all pictures.
    """
    write_atomically(path, b"[" + b",\n".join(filter(None, lines)) + b"]\n")


def _read(file: Path, names: Sequence[str]) -> tuple[list[ImageEntry], tuple[int, ...]]:
    """The pictures of an annotation file, and its numbers of the classes."""
    lists, mistakes = load_lists(file, ("images", "categories")), Mistakes()
    listed = distinct_categories(read_categories(lists["categories"], mistakes), mistakes)
    images = list(read_images(lists["images"], mistakes))
    _check_numbers(images, mistakes)
    mistakes.refuse(str(file))
    known = {category.name: category.id for category in listed}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"{file}: no category {missing[0]!r}, which the run finds. Give a file with the run's classes."
        )
    return images, tuple(known[name] for name in names)


def _check_numbers(images: Iterable[ImageEntry], mistakes: Mistakes) -> None:
    """Refuse numbers that several pictures have."""
    for number, count in Counter(image.id for image in images).items():
        if count > 1:
            mistakes.add(f"image {number}", twice(f"image {number}"))


def _match(paths: Sequence[Path], listed: Iterable[ImageEntry], file: Path) -> dict[Path, int]:
    """Return the number of each picture whose path ends as an image's file name, or has the name that only it has."""
    by_name: dict[str, list[ImageEntry]] = defaultdict(list)
    by_parts: dict[tuple[str, ...], list[ImageEntry]] = defaultdict(list)
    for image in listed:
        parts = PurePosixPath(composed(image.file_name).replace("\\", "/")).parts
        if parts:
            by_name[parts[-1]].append(image)
            by_parts[parts].append(image)
    lengths = {len(parts) for parts in by_parts}
    found: dict[Path, ImageEntry] = {}
    for path in paths:
        own = PurePosixPath(composed(str(path.absolute()))).parts
        fitting = (length for length in lengths if length <= len(own))
        ending = [image for length in fitting for image in by_parts.get(own[-length:], ())]
        images = ending if len(ending) == 1 else by_name.get(own[-1], [])
        if len(images) == 1:
            found[path] = images[0]
    missing = [path for path in paths if path not in found]
    if missing:
        told = f"{file}: lists {len(missing)} of {len(paths)} pictures not, or under several numbers: {missing[0]}"
        if not found:
            raise ValueError(f"{told}. Give the file that belongs to the pictures.")
        warnings.warn(f"{told}; they are not in {file.name}'s results.", stacklevel=3)
    check_pictures(file, found)
    return {path: image.id for path, image in found.items()}
