"""What a text reader returns: pictures and the outlines of the words on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class Picture:
    """A picture (H, W, 3), uint8 RGB, with its annotation; `name` is unique in its data set."""

    name: str
    image: NDArray[np.uint8]
    annotation: TextAnnotation


class PictureDataset(Protocol):
    """Annotated pictures by index."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def __getitem__(self, index: int, /) -> Picture:
        """Return picture number `index`."""
        ...


def check_polygon(polygon: Polygon, what: str) -> None:
    """Refuse what is no polygon.

    Args:
        polygon: (v, 2) points.
        what: how the error calls it.

    Raises:
        ValueError: fewer than three points, another shape, or a coordinate that is not finite.
    """
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
