"""What a COCO file says, checked before anything is trained on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headwise.data.annotation import BoxAnnotation
from headwise.data.checks.mistakes import Mistakes
from headwise.data.coco.entries import Integers, ObjectColumns, load_lists, read_categories, read_images, read_objects
from headwise.data.coco.rules import CategoryEntry, ImageEntry, twice


@dataclass(frozen=True, eq=False)
class CocoContent:
    """A checked COCO file.

    Args:
        class_names: of the labels, sorted by category number.
        category_ids: of the labels, ascending.
        images: sorted by number.
        boxes: of all pictures, one picture's after the other's.
        starts: (pictures + 1,) where each picture's boxes begin and the last one's end.
        without_area: numbers of the annotations that were left out because their boxes hold nothing.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[ImageEntry, ...]
    boxes: BoxAnnotation
    starts: Integers
    without_area: tuple[int, ...]
    _kept: dict[int, BoxAnnotation] = field(default_factory=dict, repr=False)

    def annotation(self, index: int) -> BoxAnnotation:
        """Return the boxes of picture number `index`, always the same object."""
        if index not in self._kept:
            self._kept[index] = self.boxes.select(np.arange(*self.starts[index : index + 2]))
        return self._kept[index]

    def select(self, indices: Sequence[int]) -> CocoContent:
        """Return the content of some of the pictures."""
        rows = [np.arange(*self.starts[index : index + 2]) for index in indices]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(each) for each in rows], dtype=np.int64)])
        boxes = self.boxes.select(np.concatenate([np.zeros(0, np.int64), *rows]))
        images = tuple(self.images[index] for index in indices)
        return replace(self, images=images, boxes=boxes, starts=starts, _kept={})


def parse_coco(path: Path) -> CocoContent:
    """Read and check a COCO file of instances.

    Args:
        path: the JSON file.

    Returns:
        What it says.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is no JSON, no COCO file, or entries break rules; the message names the file, the first entry,
            rule and remedy, and counts the others.
    """
    lists, mistakes = load_lists(path), Mistakes()
    categories = sorted(distinct_categories(read_categories(lists.pop("categories"), mistakes), mistakes))
    images = sorted(_images(read_images(lists.pop("images"), mistakes), mistakes))
    whole = not mistakes.count
    objects = read_objects(lists.pop("annotations"), mistakes)
    known = {
        "image": np.array([each.id for each in images], np.int64),
        "category": np.array([each.id for each in categories], np.int64),
    }
    # What refers to an image or a category that breaks a rule is no mistake of its own.
    if whole:
        _check_numbers(objects, known, mistakes)
    mistakes.refuse(str(path))
    names = tuple(each.name for each in categories)
    labels = np.searchsorted(known["category"], objects.categories)
    places = np.searchsorted(known["image"], objects.images)
    boxes, places, without = _boxes(objects, labels, places, images)
    starts = np.searchsorted(places, np.arange(len(images) + 1))
    return CocoContent(names, tuple(known["category"].tolist()), tuple(images), boxes, starts, without)


def distinct_categories(found: list[CategoryEntry], mistakes: Mistakes) -> list[CategoryEntry]:
    """Return those whose number and name no other has.

    Args:
        found: the categories of a file.
        mistakes: gets the others, and that there are none.

    Returns:
        The first of each.
    """
    kept: dict[int, CategoryEntry] = {}
    names: set[str] = set()
    for each in found:
        what = f"category {each.id}"
        if each.id in kept:
            mistakes.add(what, twice(what))
        elif each.name in names:
            taken = f"{what}: another category is called {each.name!r} too. Give each its own name."
            mistakes.add(what, ValueError(taken))
        else:
            kept[each.id] = each
            names.add(each.name)
    if not kept and not mistakes.count:
        nothing = "there are no categories. List what the annotations' category_id stand for."
        mistakes.add("categories", ValueError(nothing))
    return list(kept.values())


def _images(found: Iterable[ImageEntry], mistakes: Mistakes) -> list[ImageEntry]:
    """Return those whose number and file no other has."""
    kept: dict[int, ImageEntry] = {}
    names: dict[str, int] = {}
    for each in found:
        what = f"image {each.id}"
        if each.id in kept:
            mistakes.add(what, twice(what))
        elif each.file_name in names:
            other = names[each.file_name]
            taken = f"{what}: image {other} has the file {each.file_name!r} too. Keep one of them."
            mistakes.add(what, ValueError(taken))
        else:
            kept[each.id] = each
            names[each.file_name] = each.id
    return list(kept.values())


def _check_numbers(objects: ObjectColumns, known: dict[str, Integers], mistakes: Mistakes) -> None:
    """Refuse numbers of annotations that are there twice, and images and categories that are not there."""
    _, firsts = np.unique(objects.numbers, return_index=True)
    again = np.ones(len(objects.numbers), bool)
    again[firsts] = False
    lost_image, lost_category = (
        ~np.isin(each, known[kind]) for kind, each in (("image", objects.images), ("category", objects.categories))
    )
    for row in np.flatnonzero(again | lost_image | lost_category):
        what = f"annotation {objects.numbers[row]}"
        if again[row]:
            mistakes.add(what, twice(what))
        elif lost_image[row]:
            lost = f"{what}: there is no image {objects.images[row]}. Add the image or remove the annotation."
            mistakes.add(what, ValueError(lost))
        else:
            listed = known["category"]
            some = ", ".join(map(str, listed[:10])) + (", ..." if len(listed) > 10 else "")
            lost = f"{what}: there is no category {objects.categories[row]}; there are {some}. Correct or add it."
            mistakes.add(what, ValueError(lost))


def _boxes(
    objects: ObjectColumns, labels: Integers, places: Integers, images: list[ImageEntry]
) -> tuple[BoxAnnotation, Integers, tuple[int, ...]]:
    """Return the boxes by picture, the place of each box's picture, and the numbers of those left out."""
    with np.errstate(over="ignore"):
        ends = objects.boxes[:, :2] + objects.boxes[:, 2:]
        edges = np.concatenate([objects.boxes[:, :2], ends], 1).astype(np.float32)
    holds = _has_area(edges, places, images)
    order = np.flatnonzero(holds)[np.argsort(places[holds], kind="stable")]
    boxes = BoxAnnotation(edges[order], labels[order], objects.crowds[order] == 1, objects.areas[order])
    return boxes, places[order], tuple(objects.numbers[~holds].tolist())


def _has_area(edges: NDArray[np.float32], places: Integers, images: list[ImageEntry]) -> NDArray[np.bool_]:
    """Say which boxes, as float32, hold a part of their picture."""
    sizes = np.array([each.size or (np.inf, np.inf) for each in images], np.float64).reshape(-1, 2)[places]
    left_top, right_bottom = edges[:, :2], edges[:, 2:]
    holds = np.isfinite(edges) & np.concatenate([right_bottom > left_top, right_bottom > 0], 1)
    return np.asarray((holds & np.tile(left_top < sizes[:, ::-1], 2)).all(1))
