"""Handwritten digits as objects of ten classes on real photographs: a small detection task without a download.

The digits are scikit-learn's 1797 scans of 8 x 8 pixels, the photographs those of the embedded words. Nothing
is stored: picture number i is drawn from (seed, split, i), the same on every machine with the same package
versions. The splits share no photograph and no digit.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from headwise.data.annotation import BoxAnnotation, Picture
from headwise.data.embedded.drawn import DrawnPictures
from headwise.data.embedded.photographs import PHOTOGRAPHS, Pixels, Split, background, check_split
from headwise.data.embedded.printing import LUMA, visible_color
from headwise.whole import check_whole

Ink = NDArray[np.float32]
Box = tuple[int, int, int, int]

NUM_TRAIN_DIGITS = 1400
"""The first so many scans are drawn in training pictures, the others in held-out ones."""

CLASS_NAMES = tuple("0123456789")

_STREAM = 1  # keeps the draws apart from those of the embedded words
_ATTEMPTS = 20
_MOST_COVERED = 0.25  # share of a digit's box that another's may cover
_ENLARGED = 128  # pixels per side of an enlarged scan; larger than most objects, so that edges stay sharp
_SOFTNESS = 0.08  # half the range of gray levels over which ink begins


class EmbeddedDigits:
    """Pictures with boxes, drawn on demand; see `embedded_digits`."""

    def __init__(
        self, split: Split, num_pictures: int, size: int, seed: int, sides: tuple[int, int], num_digits: tuple[int, int]
    ) -> None:
        self.split = split
        self.size = size
        self.seed = seed
        self.sides = sides
        self.num_digits = num_digits
        self._pictures = DrawnPictures(self._draw, num_pictures, size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label: its digit."""
        return CLASS_NAMES

    @property
    def category_ids(self) -> tuple[int, ...]:
        """COCO's category number of each label, from 1."""
        return tuple(range(1, len(CLASS_NAMES) + 1))

    @property
    def image_ids(self) -> tuple[int, ...]:
        """COCO's number of each picture, from 1."""
        return tuple(range(1, len(self) + 1))

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Picture[BoxAnnotation]:
        """Draw picture number `index`.

        Args:
            index: 0 to the length less one; an IndexError beyond.

        Returns:
            The picture, the same at every call.
        """
        return self._pictures[index]

    def _draw(self, index: int) -> Picture[BoxAnnotation]:
        entropy = (self.seed, list(PHOTOGRAPHS).index(self.split), index, _STREAM)
        generator = np.random.default_rng(np.random.SeedSequence(entropy))
        image = background(generator, self.split, self.size)
        least, most = self.num_digits
        boxes: list[Box] = []
        labels: list[int] = []
        for _ in range(int(generator.integers(least, most + 1))):
            ink, label = _random_digit(generator, self.split, self.sides)
            box = _free_place(generator, ink.shape, boxes, self.size)
            if box is not None:
                _paint(generator, image, ink, box)
                boxes.append(box)
                labels.append(label)
        annotation = BoxAnnotation(
            np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.zeros(len(boxes), np.bool_)
        )
        return Picture(f"{self.split}_{index:04d}", image, annotation)


def embedded_digits(
    split: Split = "train",
    *,
    num_pictures: int = 1000,
    size: int = 128,
    seed: int = 0,
    min_side: int = 20,
    max_side: int = 70,
    num_digits: tuple[int, int] = (1, 6),
) -> EmbeddedDigits:
    """Return the embedded detection data: handwritten digits on real photographs.

    A digit's longer side is drawn log-uniformly; it is turned by up to 12 degrees and stretched by up to a
    fifth, and painted in a color that differs in brightness from what lies behind it. At most a quarter of
    one digit's box is covered by another's; where no such place is found a digit is left out, so a picture
    may hold fewer than were drawn, but never none.

    Args:
        split: "train" or "held_out"; they share neither photographs nor digits.
        num_pictures: how many.
        size: height and width, pixels.
        seed: of everything random in it.
        min_side: least longer side of a digit, pixels.
        max_side: greatest longer side of a digit, pixels; at most the size.
        num_digits: fewest and most digits drawn per picture.

    Returns:
        The data set, labels 0 to 9. Boxes are tight and exact: whole pixel edges around the ink.

    Raises:
        ValueError: an unknown split, no pictures, or sides or numbers of digits that leave nothing to draw.
    """
    check_split(split)
    check_whole("embedded_digits", num_pictures=num_pictures, size=size, min_side=min_side, max_side=max_side)
    check_whole("embedded_digits", 0, seed=seed)
    for number in num_digits:
        check_whole("embedded_digits", num_digits=number)
    if not 8 <= min_side <= max_side <= size or len(num_digits) != 2 or num_digits[0] > num_digits[1]:
        raise ValueError(
            f"num_pictures {num_pictures}, size {size}, min_side {min_side}, max_side {max_side}, num_digits "
            f"{num_digits}: needs a picture or more, 8 <= min_side <= max_side <= size, and 1 <= fewest <= most."
        )
    return EmbeddedDigits(split, num_pictures, size, seed, (min_side, max_side), num_digits)


@lru_cache(maxsize=2)
def read_scans(split: Split) -> tuple[Ink, NDArray[np.int64]]:
    """Return the split's scans (n, 8, 8) in [0, 1] and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    part = slice(NUM_TRAIN_DIGITS, None) if split == "held_out" else slice(NUM_TRAIN_DIGITS)
    return (digits.images[part] / 16).astype(np.float32), digits.target[part].astype(np.int64)


def _random_digit(generator: np.random.Generator, split: Split, sides: tuple[int, int]) -> tuple[Ink, int]:
    """Draw a scan and its form.

    Returns:
        Coverage (height, width) in [0, 1] that touches all four sides of its array, and the label.
    """
    scans, labels = read_scans(split)
    number = int(generator.integers(len(scans)))
    ink = enlarge(scans[number], degrees=generator.uniform(-12, 12), stretch=generator.uniform(0.83, 1.2))
    side = np.exp(generator.uniform(*np.log(sides)))
    scale = side / max(ink.shape)
    width, height = (max(round(length * scale), 1) for length in (ink.shape[1], ink.shape[0]))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(ink, (width, height), interpolation=method), np.float32), int(labels[number])


def enlarge(scan: Ink, degrees: float, stretch: float) -> Ink:
    """Turn a scan into strokes with sharp edges, cut to their bounds.

    The scan counts ink in blocks of 4 x 4, so the level at half height of its smooth interpolation is about
    where the pen's stroke ended.
    """
    scale = _ENLARGED / 10  # the scan and a free pixel around it
    turn = cv2.getRotationMatrix2D((3.5, 3.5), degrees, 1.0)
    move = np.array([[scale * min(stretch, 1.0), 0, 0], [0, scale / max(stretch, 1.0), 0], [0, 0, 1.0]])
    middle = np.array([[1, 0, _ENLARGED / 2], [0, 1, _ENLARGED / 2], [0, 0, 1.0]])
    center = np.array([[1, 0, -3.5], [0, 1, -3.5], [0, 0, 1.0]])
    matrix = (middle @ move @ center @ np.vstack([turn, [0, 0, 1]]))[:2]
    smooth = cv2.warpAffine(scan, matrix, (_ENLARGED, _ENLARGED), flags=cv2.INTER_CUBIC)
    ink = ((smooth - 0.5) / (2 * _SOFTNESS) + 0.5).clip(0, 1)
    rows, columns = (np.flatnonzero((ink >= 0.5).any(axis=axis)) for axis in (1, 0))
    return np.asarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], np.float32)


def _free_place(generator: np.random.Generator, shape: tuple[int, ...], boxes: list[Box], size: int) -> Box | None:
    """Try random places until no box is covered by too much."""
    height, width = shape
    for _ in range(_ATTEMPTS):
        left, top = int(generator.integers(size - width + 1)), int(generator.integers(size - height + 1))
        box = (left, top, left + width, top + height)
        if all(_covered(box, other) <= _MOST_COVERED for other in boxes):
            return box
    return None


def _covered(one: Box, other: Box) -> float:
    """Return the share of the smaller box that the larger one covers."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(width, 0) * max(height, 0) / min(areas)


def _paint(generator: np.random.Generator, image: Pixels, ink: Ink, box: Box) -> None:
    """Paint a digit in a visible color, in place."""
    left, top, right, bottom = box
    patch = image[top:bottom, left:right]
    luma = float(patch.reshape(-1, 3).mean(axis=0) @ LUMA)
    color = visible_color(generator, luma, generator.uniform(110, 220))
    painted = patch + generator.uniform(0.85, 1.0) * ink[..., None] * (color - patch)
    image[top:bottom, left:right] = painted.round().clip(0, 255).astype(np.uint8)
