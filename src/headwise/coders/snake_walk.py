"""From maps back to words: walk along each center line, gather its discs, draw the region that they cover.

NumPy and OpenCV on one image; points are (x, y) in pixels. ``snakes.decode_snakes`` calls this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from headwise.require import missing

try:
    import cv2
    import numpy as np
    import numpy.typing as npt
except ImportError as error:
    raise missing("headwise.coders.snake_walk", "coders", error) from error


Array: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Contour: TypeAlias = npt.NDArray[np.int32]

STRIDES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)  # of the radius: the longest that stays inside is taken
MERGE_STRIDE = 0.3  # of the last radius: how far past its end a line is looked for in another word
SHORTEST_RADIUS = 1.0  # a predicted radius of 0 (or below) must not stop the walk


@dataclass(frozen=True)
class Geometry:
    """Direction and radius on the center lines of one image, each map (H, W)."""

    line: Mask
    sin: Array
    cos: Array
    radius: Array

    @classmethod
    def from_maps(cls, line: Mask, sin: Array, cos: Array, radius: Array) -> Geometry:
        """Normalize the direction; where both parts are 0 it points to +x. No radius exceeds the image."""
        # float64: neither overflow nor underflow, and exact on the axes, where pixel borders are ties
        length = np.hypot(sin.astype(np.float64), cos.astype(np.float64))
        pointed = length > 0
        safe = np.where(pointed, length, 1)
        diagonal = np.hypot(*radius.shape)
        radius = radius.astype(np.float64).clip(0, diagonal)
        return cls(_fill_holes(line).astype(bool), sin / safe, np.where(pointed, cos / safe, 1), radius)

    def at(self, point: Array) -> tuple[Array, float] | None:
        """Unit direction and radius at a point, from the first pixel around it that lies on a center line.

        Elsewhere nothing was trained, and the maps hold anything. None where no pixel does.
        """
        height, width = self.line.shape
        x, y = int(point[0]), int(point[1])
        for column, row in ((x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)):
            if row < height and column < width and self.line[row, column]:
                direction = np.array([self.cos[row, column], self.sin[row, column]])
                return direction, float(self.radius[row, column])
        return None


@dataclass(frozen=True)
class Word:
    """One detection: outline (v, 2), discs (m, 3: x, y, radius), mean of a map over its mask."""

    polygon: Contour
    disks: Array
    score: float


@dataclass(frozen=True)
class Canvas:
    """The pixels that some discs cover: a crop of the image whose first pixel is (left, top)."""

    mask: npt.NDArray[np.uint8]
    left: int
    top: int

    @classmethod
    def covered_by(cls, disks: Array, expand: float, shape: tuple[int, ...]) -> Canvas:
        """Draw discs, widened by a factor of 1 + expand, and cut them to an image of a shape (H, W)."""
        centers = disks[:, :2].astype(np.int64)
        # One as wide as the image covers it; OpenCV takes no number beyond 2^31.
        radii = (disks[:, 2] * (1 + expand)).clip(1, sum(shape)).astype(np.int64)
        low = (centers - radii[:, None]).min(axis=0).clip(0)
        high = np.minimum((centers + radii[:, None]).max(axis=0) + 1, shape[1::-1])
        mask = np.zeros(tuple(high - low)[::-1], np.uint8)
        for (x, y), radius in zip((centers - low).tolist(), radii.tolist(), strict=True):
            cv2.circle(mask, (x, y), radius, 1, -1)
        return cls(mask, int(low[0]), int(low[1]))

    def crop(self, image: Array | Mask) -> npt.NDArray[np.generic]:
        """The same pixels of a map (H, W) of the whole image, as a vector."""
        height, width = self.mask.shape
        part: npt.NDArray[np.generic] = image[self.top : self.top + height, self.left : self.left + width]
        return part[self.mask > 0]

    def within(self, region: Mask) -> Canvas:
        """What lies in a region (H, W) of the whole image."""
        height, width = self.mask.shape
        part = region[self.top : self.top + height, self.left : self.left + width]
        return Canvas(self.mask * part.astype(np.uint8), self.left, self.top)

    def outline(self) -> Contour:
        """Vertices (v, 2) of the largest region's border, through the centers of its border pixels."""
        contours, _ = cv2.findContours(self.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        largest = np.asarray(max(contours, key=cv2.contourArea)[:, 0], np.int32)
        return largest + np.array([self.left, self.top], np.int32)


def find_center_lines(geometry: Geometry, *, min_area: float, max_steps: int) -> list[Array]:
    """Walk along each connected center line.

    Args:
        geometry: center lines, direction and radius.
        min_area: least area inside the border pixels' centers.
        max_steps: most steps in each of the two directions.

    Returns:
        For each line its discs (m, 3): x, y, radius, from one end to the other.
    """
    contours, _ = cv2.findContours(geometry.line.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    lines = []
    for contour in (np.asarray(found, np.int32) for found in contours):
        start = _inner_point(contour) if cv2.contourArea(contour) >= min_area else None
        if start is not None:
            ahead = _walk(contour, start, geometry, 1.0, max_steps)
            back = _walk(contour, start, geometry, -1.0, max_steps)
            if back:
                lines.append(np.array(ahead[:0:-1] + back))
    return lines


def draw_words(
    lines: list[Array], region: Mask, probability: Array, *, expand: float, within_region: bool
) -> list[Word]:
    """Turn discs into outlines and keep those of which at least half is text.

    Args:
        lines: per word its discs (m, 3).
        region: (H, W) text region.
        probability: (H, W) of text, whose mean over the word is its score.
        expand: share by which each disc is widened.
        within_region: cut the outline of what is kept to the text region.

    Returns:
        The words kept.
    """
    words = []
    for disks in lines:
        canvas = Canvas.covered_by(disks, expand, region.shape)
        if canvas.crop(region).mean() < 0.5:
            continue
        canvas = canvas.within(region) if within_region else canvas
        polygon = canvas.outline()
        if len(polygon) >= 3:
            words.append(Word(polygon, disks, float(canvas.crop(probability).mean())))
    return words


def group_words(words: list[Word]) -> list[Array]:
    """Join words where the line of one, carried on past an end, enters another.

    Args:
        words: what was detected.

    Returns:
        Per joined word its discs.
    """
    group = list(range(len(words)))
    owners = [i for i, word in enumerate(words) if len(word.disks) > 1]
    tips = np.array([[_beyond(words[i].disks), _beyond(words[i].disks[::-1])] for i in owners]).reshape(-1, 2, 2)
    for j, word in enumerate(words):
        low, high = word.polygon.min(axis=0), word.polygon.max(axis=0)
        near = ((tips > low) & (tips < high)).all(axis=2)
        for k in near.any(axis=1).nonzero()[0]:
            i = owners[k]
            if group[i] != group[j] and any(_inside(word.polygon, tip) for tip in tips[k]):
                group = [group[i] if label == group[j] else label for label in group]
    members = [[word for word, label in zip(words, group, strict=True) if label == wanted] for wanted in set(group)]
    return [np.concatenate([word.disks for word in joined]) for joined in members]


def _fill_holes(mask: Mask) -> npt.NDArray[np.uint8]:
    height, width = mask.shape
    framed = np.zeros((height + 2, width + 2), np.uint8)
    framed[1:-1, 1:-1] = mask
    cv2.floodFill(framed, None, (0, 0), 2)
    return np.asarray(framed[1:-1, 1:-1] != 2, np.uint8)


def _inside(contour: Contour, point: Array) -> bool:
    return bool(cv2.pointPolygonTest(contour, (float(point[0]), float(point[1])), False) > 0)


def _inner_point(contour: Contour) -> Array | None:
    points = contour[:, 0].astype(np.float64)
    x = points[:, 0].mean()
    heights: list[float] = []
    for y in np.arange(points[:, 1].min() - 1, points[:, 1].max() + 1, 0.5):
        if _inside(contour, np.array([x, y])):
            heights.append(y)
        elif heights and cv2.pointPolygonTest(contour, (float(x), float(y)), False) < 0:
            break
    if heights:
        return np.array([x, np.mean(heights)])
    around = np.array([(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)])
    near = (points[:, None] + around).reshape(-1, 2)
    return next((point for point in near if _inside(contour, point)), None)


def _walk(contour: Contour, start: Array, geometry: Geometry, sense: float, max_steps: int) -> list[Array]:
    disks: list[Array] = []
    position: Array | None = start
    while position is not None and len(disks) <= max_steps:
        here = geometry.at(position)
        if here is None:
            break
        center = _center(contour, position, here[0])
        direction, radius = geometry.at(center) or here
        disks.append(np.array([*center, radius]))
        before = disks[-2][:2] if len(disks) > 1 else None
        position = _next(contour, center, sense * direction, max(radius, SHORTEST_RADIUS), before)
    return disks


def _center(contour: Contour, position: Array, direction: Array) -> Array:
    normal = np.array([-direction[1], direction[0]])
    return (_leave(contour, position, normal) + _leave(contour, position, -normal)) / 2


def _leave(contour: Contour, position: Array, step: Array) -> Array:
    while _inside(contour, position):
        position = position + step
    return position


def _next(contour: Contour, center: Array, direction: Array, radius: float, before: Array | None) -> Array | None:
    for stride in STRIDES:
        shift = stride * radius * direction
        position = center + shift
        if before is not None and np.linalg.norm(before - position) <= np.linalg.norm(before - (center - shift)):
            position = center - shift
        if _inside(contour, position):
            return position
    return None


def _beyond(disks: Array) -> Array:
    """The point where a line would arrive if it went on past its first disc."""
    step = disks[0, :2] - disks[1, :2]
    length = float(np.linalg.norm(step))
    return np.asarray(disks[0, :2] + MERGE_STRIDE * disks[0, 2] * step / (length or 1.0))
