"""What a reader returns: pictures, and the outlines of the words or the boxes of the objects on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

Polygon = NDArray[np.float64]

_FLATTEST = 1e-6  # breadth over length; what is flatter is a line that was rounded


@dataclass(frozen=True)
class TextAnnotation:
    """The words of one picture.

    Args:
        polygons: one outline (v, 2) per word, v >= 3, points (x, y) in pixels, finite; along the top edge,
            then back along the bottom edge. Points may lie outside the picture.
        ignored: True for a word that counts neither as text nor as background (Total-Text's ``#``).
        words: the transcriptions; empty where unknown.

    Raises:
        ValueError: a polygon with fewer than three points, a coordinate that is not finite, or lengths that
            differ.
    """

    polygons: tuple[Polygon, ...]
    ignored: tuple[bool, ...]
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.polygons) == len(self.ignored) == len(self.words):
            raise ValueError(
                f"{len(self.polygons)} polygons, {len(self.ignored)} ignored flags, {len(self.words)} words; "
                "give one of each per word."
            )
        for index, (polygon, word) in enumerate(zip(self.polygons, self.words, strict=True)):
            check_polygon(polygon, f"polygon {index} ({word!r})")

    def __len__(self) -> int:
        return len(self.polygons)


@dataclass(frozen=True, eq=False)
class BoxAnnotation:
    """The objects of one picture.

    Args:
        boxes: (n, 4) float32, x1, y1, x2, y2 in pixel edges: the picture spans 0 to its width and 0 to its
            height, and the width of a box is x2 - x1 > 0. Boxes may reach beyond the picture.
        labels: (n,) int64 in 0..C-1.
        ignored: (n,) bool, True for a region that counts neither as object nor as background (COCO's crowds).
        areas: (n,) float64, square pixels of the objects, by which COCO's evaluation sorts them into small,
            medium and large; None where the boxes' own are meant.

    Raises:
        ValueError: a shape or dtype that does not fit, a coordinate or area that is not finite, a box without
            width or height, or a negative label or area.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    areas: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        num_boxes = len(self.boxes)
        check_array(self.boxes, "boxes", (num_boxes, 4), np.float32)
        check_array(self.labels, "labels", (num_boxes,), np.int64)
        check_array(self.ignored, "ignored", (num_boxes,), np.bool_)
        if self.areas is not None:
            check_array(self.areas, "areas", (num_boxes,), np.float64)
            if not ((self.areas >= 0) & (self.areas < np.inf)).all():
                raise ValueError(f"areas must be at least 0 and finite, found {self.areas.tolist()}. Correct them.")
        right = np.isfinite(self.boxes).all(axis=1) & (self.boxes[:, 2:] > self.boxes[:, :2]).all(axis=1)
        if not right.all():
            index = int(np.argmin(right))
            raise ValueError(
                f"box {index} is {self.boxes[index].tolist()}, but x1, y1, x2, y2 must be finite with x2 > x1 and "
                "y2 > y1. Correct or remove it."
            )
        if num_boxes and self.labels.min() < 0:
            index = int(np.argmin(self.labels))
            raise ValueError(f"box {index} has the label {self.labels[index]}, but labels begin at 0. Correct it.")

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> BoxAnnotation:
        """Return some of the objects.

        Args:
            which: (n,) bool, True for those to keep, or (m,) int64, their numbers in the order wanted.

        Returns:
            Those objects.
        """
        areas = None if self.areas is None else self.areas[which]
        return BoxAnnotation(self.boxes[which], self.labels[which], self.ignored[which], areas)


Annotation = TypeVar("Annotation", default=TextAnnotation)


@dataclass(frozen=True)
class Picture(Generic[Annotation]):
    """A picture (H, W, 3), uint8 RGB, with its annotation; `name` is unique in its data set.

    Raises:
        ValueError: the picture is of another shape or dtype, or has no pixel.
    """

    name: str
    image: NDArray[np.uint8]
    annotation: Annotation

    def __post_init__(self) -> None:
        what = f"picture {self.name!r}"
        shape = getattr(self.image, "shape", ())
        check_array(self.image, what, (*shape[:2], 3), np.uint8)
        if not self.image.size:
            raise ValueError(f"{what} is {self.image.shape}: it has no pixel. Leave it out.")


class PictureDataset(Protocol[Annotation]):
    """Annotated pictures by index: words where no other annotation is named."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def __getitem__(self, index: int, /) -> Picture[Annotation]:
        """Return picture number `index`."""
        ...


class BoxDataset(PictureDataset[BoxAnnotation], Protocol):
    """Pictures with boxes, and what their labels and numbers mean in COCO's files."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        ...

    @property
    def category_ids(self) -> tuple[int, ...]:
        """COCO's category number of each label."""
        ...

    @property
    def image_ids(self) -> tuple[int, ...]:
        """COCO's number of each picture."""
        ...


def check_array(array: Any, what: str, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    """Refuse an array of another shape or dtype.

    Args:
        array: what was given.
        what: how the error calls it.
        shape: what it must have.
        dtype: what it must have.

    Raises:
        ValueError: another shape or dtype.
    """
    wanted = f"{shape} {np.dtype(dtype)}"
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{what} must be an array {wanted}, found a {type(array).__name__}. Convert it.")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{what} must be {wanted}, found {array.shape} {array.dtype}. Reshape or convert it.")


def check_polygon(polygon: Any, what: str) -> None:
    """Refuse what is no polygon.

    Args:
        polygon: (v, 2) points.
        what: how the error calls it.

    Raises:
        ValueError: fewer than three points, another shape, or a coordinate that is not finite.
    """
    if not isinstance(polygon, np.ndarray):
        raise ValueError(f"{what} is a {type(polygon).__name__}, but a polygon is an array (points, 2). Convert it.")
    if polygon.ndim != 2 or polygon.shape[1] != 2:
        raise ValueError(f"{what} has shape {polygon.shape}, but a polygon is (points, 2). Correct or remove it.")
    if len(polygon) < 3:
        raise ValueError(f"{what} has {len(polygon)} points, but a polygon needs at least 3. Correct or remove it.")
    finite = np.isfinite(polygon).all(axis=1)
    if not finite.all():
        point = int(np.argmin(finite))
        raise ValueError(
            f"{what} has the point {tuple(polygon[point].tolist())} at position {point}, "
            "but coordinates must be finite. Correct or remove it."
        )


def check_area(polygon: Polygon, what: str) -> None:
    """Refuse an outline that is a line or a point, of which no target can be drawn.

    Args:
        polygon: (v, 2) points.
        what: how the error calls it.

    Raises:
        ValueError: all points lie on a line, or on one another.
    """
    length, breadth = np.linalg.svd(polygon - polygon.mean(axis=0), compute_uv=False)
    if breadth <= _FLATTEST * length:
        raise ValueError(f"{what} has no area: its points lie on a line or coincide. Correct it, or mark it with '#'.")


def polygon_area(polygon: Polygon) -> float:
    """Return the area enclosed by (v, 2) points, in square pixels, whatever their direction."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def visible_fraction(polygon: Polygon, width: float, height: float) -> float:
    """Return the share of a polygon's area that lies on a picture, in [0, 1].

    The picture reaches from -0.5 to width - 0.5, the outer borders of its first and last pixels. Cutting by
    one half-plane after the other is exact in area for concave polygons too: the edges it adds cover each
    other.

    Args:
        polygon: (v, 2) points.
        width: pixels.
        height: pixels.

    Returns:
        The fraction; 0 for a polygon without area.
    """
    area = polygon_area(polygon)
    if area == 0:
        return 0.0
    cut = polygon
    for axis, bound, sign in ((0, -0.5, 1), (0, width - 0.5, -1), (1, -0.5, 1), (1, height - 0.5, -1)):
        cut = _cut(cut, axis, bound, sign)
        if len(cut) == 0:
            return 0.0
    return min(polygon_area(cut) / area, 1.0)


def _cut(polygon: Polygon, axis: int, bound: float, sign: int) -> Polygon:
    """Keep the part of a polygon where sign * (coordinate - bound) >= 0 (Sutherland and Hodgman)."""
    distance = sign * (polygon[:, axis] - bound)
    if (distance >= 0).all():
        return polygon
    kept: list[Polygon] = []
    for here in range(len(polygon)):
        before = here - 1
        if (distance[here] >= 0) != (distance[before] >= 0):
            share = distance[before] / (distance[before] - distance[here])
            kept.append(polygon[before] + share * (polygon[here] - polygon[before]))
        if distance[here] >= 0:
            kept.append(polygon[here])
    return np.array(kept, dtype=np.float64).reshape(-1, 2)
