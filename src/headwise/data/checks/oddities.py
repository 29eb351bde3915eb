"""What can be read and cannot be meant: boxes in 0..1, corners for sizes, masks for maps of objects.

Nothing here is certain of a single picture; a whole data set is judged, and told of once, with a count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwise.data.annotation import BoxAnnotation, TextAnnotation
from headwise.data.pictures import Numbers, Size

Floats = NDArray[np.floating]

NOTABLE = 0.01  # share of a data set from which something is no accident
_OFTEN = 0.25  # share of boxes that reach beyond their pictures, as hand-drawn ones do, but not so many
_NEARLY_ALL = 0.95
_SLACK = 2.0  # pixels by which a careful annotation may miss the border
_SMALL = 16  # pixels; smaller pictures may be full of boxes of one pixel
_WHITE = (255, 65535)  # what image programs mean by a mask's foreground, and data sets by void
_FALLEN = 2  # parts of a number, of which objects behind others have more than one
_SEVERAL = 20  # boxes; fewer may be alike by accident
_VOID_GAP = 1  # numbers missing below 255, where it stands for no object


class Oddity(NamedTuple):
    """Something that cannot be meant.

    Args:
        text: what, how often, and what to do.
        hopeless: whether nothing can be learned from such data.
    """

    text: str
    hopeless: bool = False


def odd_boxes(boxes: BoxAnnotation, starts: NDArray[np.int64], sizes: Sequence[Size]) -> list[Oddity]:
    """Judge the boxes of a data set.

    Args:
        boxes: of all pictures, one picture's after the other's.
        starts: (pictures + 1,) where each picture's begin and end.
        sizes: (height, width) of each picture.

    Returns:
        What cannot be meant; nothing of good data.
    """
    if boxes.ignored.all():
        crowds = f" that is no crowd, of {len(boxes)} boxes," if len(boxes) else ""
        return [Oddity(f"there is not one object{crowds} on its {len(sizes)} pictures. Annotate some.", hopeless=True)]
    sides = np.repeat(np.array(sizes, np.float64).reshape(-1, 2)[:, ::-1], np.diff(starts), axis=0)
    first, last = (boxes.boxes[:, each].astype(np.float64) for each in (slice(2), slice(2, 4)))
    placed = _Placed(first, last, sides)
    found = (judge(placed) for judge in (_in_shares, _in_corners, _outside, _in_percents, _everywhere))
    told = next(filter(None, found), None) or _repeated(boxes, starts)
    return [told] if told else []


class _Placed(NamedTuple):
    """Boxes by their corners, and the sides of their pictures; each (boxes, 2): x, y."""

    first: Floats
    last: Floats
    sides: Floats


def _in_shares(placed: _Placed) -> Oddity | None:
    first, last, sides = placed
    shares = ((first >= -0.5) & (first <= 1) & (last - first <= 1) & (sides >= _SMALL)).all(1)
    if shares.mean() <= NOTABLE:
        return None
    return Oddity(
        f"{int(shares.sum())} of {len(first)} boxes lie within 0..1, as if normalized by width and height, but "
        "bbox is x, y, width, height in pixels. Multiply them by the pictures' sizes.",
        hopeless=bool(shares.mean() > _NEARLY_ALL),
    )


def _in_corners(placed: _Placed) -> Oddity | None:
    first, last, sides = placed
    beyond = ((first < -_SLACK) | (last > sides + _SLACK)).any(1)
    corners = _are_corners(first, last - first, sides)
    if beyond.mean() <= NOTABLE or corners.mean() <= _NEARLY_ALL or not _moved(first, sides):
        return None
    text = (
        f"{int(beyond.sum())} of {len(first)} boxes reach beyond the picture's border, and all would fit if bbox gave "
        "corners: it is x, y, width, height. Subtract x and y from the third and the fourth number."
    )
    return Oddity(text, hopeless=bool(beyond.mean() > _OFTEN))


def _outside(placed: _Placed) -> Oddity | None:
    first, last, sides = placed
    beyond = ((first < -_SLACK) | (last > sides + _SLACK)).any(1)
    inside = np.clip(np.minimum(last, sides) - np.maximum(first, 0), 0, None).prod(1)
    mostly = inside < 0.5 * (last - first).prod(1)
    for what, found, least in (
        ("lie mostly outside", mostly, NOTABLE),
        ("reach beyond the border of", beyond, _OFTEN),
    ):
        if found.mean() > least:
            counted = f"{int(found.sum())} of {len(first)} boxes {what} their picture."
            return Oddity(f"{counted} Compare the drawn boxes with the pictures.")
    return None


def _in_percents(placed: _Placed) -> Oddity | None:
    first, last, sides = placed
    if not ((last <= 100).all() and (sides > 2 * 100).all() and len(first) >= _SEVERAL):
        return None
    text = f"all {len(first)} boxes lie within 0..100, as if in percent of the pictures' sizes. bbox is in pixels."
    return Oddity(text)


def _everywhere(placed: _Placed) -> Oddity | None:
    first, last, sides = placed
    whole = ((first <= _SLACK) & (last >= sides - _SLACK)).all(1)
    if whole.mean() <= _NEARLY_ALL or len(first) < _SEVERAL:
        return None
    counted = f"{int(whole.sum())} of {len(first)} boxes are as large as their picture"
    return Oddity(f"{counted}: nothing of where objects are can be learned from them. Draw them around the objects.")


def _repeated(boxes: BoxAnnotation, starts: NDArray[np.int64]) -> Oddity | None:
    pictures = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    columns = (*boxes.boxes.T, boxes.labels, pictures)
    order = np.lexsort(columns)
    again = np.logical_and.reduce([np.diff(column[order]) == 0 for column in columns])
    if again.sum() <= NOTABLE * len(boxes):
        return None
    counted = f"{int(again.sum())} of {len(boxes)} boxes are those of another annotation of their picture and class"
    return Oddity(f"{counted}, number by number. Remove the repeated ones.")


def odd_words(annotations: Sequence[TextAnnotation], sizes: Sequence[Size]) -> list[Oddity]:
    """Judge the outlines of the words of a data set.

    Args:
        annotations: of each picture.
        sizes: (height, width) of each picture.

    Returns:
        What cannot be meant; nothing of good data.
    """
    total = sum(map(len, annotations))
    if not sum(not flag for each in annotations for flag in each.ignored):
        held = f"{total} words, all of them ignored" if total else "no object, that is no word,"
        return [Oddity(f"there is {held} on its {len(sizes)} pictures. Annotate some.", hopeless=True)]
    shares = outside = crossed = 0
    for annotation, (height, width) in zip(annotations, sizes, strict=True):
        for polygon in annotation.polygons:
            shares += bool(((polygon >= -0.5) & (polygon <= 1.0)).all() and min(height, width) >= _SMALL)
            middle = (polygon.min(axis=0) + polygon.max(axis=0)) / 2
            outside += not ((middle >= 0) & (middle <= (width, height))).all()
            crossed += _crosses_itself(polygon.astype(np.float64))
    if shares / total > NOTABLE:
        text = f"{shares} of {total} outlines lie within 0..1, as if normalized, but x and y are pixels. Multiply them."
        return [Oddity(text, hopeless=shares / total > _NEARLY_ALL)]
    if outside / total > NOTABLE:
        return [
            Oddity(f"{outside} of {total} outlines lie mostly outside their picture. Compare them with the pictures.")
        ]
    if crossed / total > NOTABLE:
        text = (
            f"{crossed} of {total} outlines cross themselves. List the points of each in their order around the word."
        )
        return [Oddity(text)]
    again = total - sum(len({polygon.tobytes() for polygon in each.polygons}) for each in annotations)
    if again / total > NOTABLE:
        return [Oddity(f"{again} of {total} outlines are those of another word of their picture. Remove the repeated.")]
    return []


def _crosses_itself(polygon: Floats) -> bool:
    """Whether two edges of a polygon that do not follow each other cross between their ends."""
    start, edge = polygon, np.roll(polygon, -1, axis=0) - polygon
    side = _cross(edge[:, None], start[None] - start[:, None])  # of each edge's line: of each start
    other = _cross(edge[:, None], (start + edge)[None] - start[:, None])  # and of each end
    parted = side * other < 0
    return bool((parted & parted.T).any())


def _cross(one: Floats, other: Floats) -> Floats:
    return np.asarray(one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0])


def odd_maps(maps: Sequence[Numbers]) -> list[Oddity]:
    """Judge the instance maps of a data set.

    Args:
        maps: what each says of its objects.

    Returns:
        What cannot be meant; nothing of good data.
    """
    filled = [each for each in maps if each.objects]
    if not filled:
        return [Oddity(f"there is no object in its {len(maps)} label maps. Number the objects from 1.", hopeless=True)]
    single = [each for each in filled if each.objects == 1]
    white = [each for each in single if each.largest in _WHITE]
    alike = len(single) >= _NEARLY_ALL * len(filled) and len({each.largest for each in single}) == 1
    masks = white if len(white) > NOTABLE * len(filled) else single if alike else []
    several = sum(each.parts > 1 for each in masks)
    if (white and masks) or several:
        return [
            Oddity(
                f"{len(masks)} of {len(maps)} label maps are masks of 0 and {masks[0].largest}, one object each, "
                f"{several} of which fall into separate parts: these are read as one object. Give each object a number "
                "of its own."
            )
        ]
    void = sum(each.largest in _WHITE and each.second < each.largest - _VOID_GAP for each in filled if each.objects > 1)
    if void > NOTABLE * len(filled):
        return [
            Oddity(
                f"{void} of {len(maps)} label maps hold the number 255 (65535 of 16 bits) and none just below it: if "
                "it stands for void, a border that counts as nothing, it is read as an object. Set it to 0."
            )
        ]
    full = sum(each.full for each in filled)
    if full > NOTABLE * len(filled):
        text = f"{full} of {len(maps)} label maps hold no 0, so that every pixel is of an object. 0 is the background."
        return [Oddity(text)]
    objects, parts = (sum(getattr(each, name) for each in filled) for name in ("objects", "parts"))
    if parts > _FALLEN * objects:
        text = (
            f"the {objects} numbers of its {len(maps)} label maps lie on {parts} separate parts: if they stand for "
            "classes, all objects of a class are read as one. Give each object a number of its own."
        )
        return [Oddity(text)]
    return []


def _are_corners(first: Floats, second: Floats, sides: Floats) -> NDArray[np.bool_]:
    """Which boxes lie within their pictures if the third and fourth number are a corner, too."""
    return np.asarray(((second > first) & (second <= sides + _SLACK)).all(1))


def _moved(first: Floats, sides: Floats) -> bool:
    """Whether boxes begin away from the upper left, where corners and sizes are the same."""
    return bool((first > 0.05 * sides).any())
