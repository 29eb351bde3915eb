"""Coins and a cell from photographs that ship inside scikit-image, put together so that they touch.

The objects are real, cut out along their outline; so are the backgrounds. How they lie is drawn: picture number i
is a function of (seed, split, i). Where one object lies on another, the lower one ends at its edge, so that the
instance map is exact. The splits share no pixel of a photograph: each photograph is divided in two regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.resources import files
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from headwise.data.annotation import Picture
from headwise.data.embedded.drawn import DrawnPictures
from headwise.data.embedded.photographs import Split, check_split
from headwise.data.instances import InstanceAnnotation
from headwise.data.pictures import load_picture
from headwise.whole import check_whole

Gray = NDArray[np.float32]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

COINS_CUT = 225  # row of coins.png between the third and the fourth row of coins: above for training
SURFACES = ("brick", "grass", "gravel", "moon")  # left half for training, right half held out

_DIAMETER = (0.15, 0.26)  # of an object, in heights of the picture
_OVERLAP = (0.06, 0.18)  # how far an object lies on another, in their diameters
_VISIBLE = 0.7  # of each object must stay visible
_CLEARANCE = 4  # pixels between objects that do not touch
_LEAST_HIDDEN = 6  # pixels of the lower of two that touch
_ATTEMPTS = 40


class Cutout(NamedTuple):
    """An object: gray values (h, w) in 0..255, and where it is."""

    image: Gray
    mask: Mask

    @property
    def diameter(self) -> float:
        """Of the circle of the same area, pixels."""
        return float(np.sqrt(4 / np.pi * self.mask.sum()))

    def as_floats(self) -> tuple[Gray, Gray]:
        """Return both as float32, for interpolation."""
        return self.image, self.mask.astype(np.float32)


@dataclass
class _DrawnObject:
    """An object on a picture: gray values and extent (H, W), middle (x, y), diameter, and its number once it stays."""

    image: Gray
    mask: Mask
    center: NDArray[np.float64]
    diameter: float
    number: int = 0


def embedded_instances(
    split: Split = "train", *, num_pictures: int = 200, size: int = 128, seed: int = 0
) -> DrawnPictures[InstanceAnnotation]:
    """Return the embedded data set: touching coins, and in training a cell, on real surfaces.

    Args:
        split: "train" (18 coins, a cell) or "held_out" (6 coins).
        num_pictures: how many.
        size: height and width, pixels.
        seed: of everything random in it.

    Returns:
        The data set. A picture has two to four groups of one to three objects; those of a group touch.

    Raises:
        ValueError: an unknown split, or a size too small to place objects.
        ImportError: scikit-image is not installed.
    """
    check_split(split)
    check_whole("embedded_instances", num_pictures=num_pictures, size=size)
    check_whole("embedded_instances", 0, seed=seed)
    if size < 64:
        raise ValueError(
            f"size {size}, num_pictures {num_pictures}: needs a size of at least 64 and a picture or more."
        )
    return DrawnPictures(partial(_draw, split, size, seed), num_pictures, size)


def _draw(split: Split, size: int, seed: int, index: int) -> Picture[InstanceAnnotation]:
    entropy = (seed, ("train", "held_out").index(split), index)
    generator = np.random.default_rng(np.random.SeedSequence(entropy))
    image = _surface(generator, split, size)
    label = np.zeros((size, size), np.int32)
    for _ in range(int(generator.integers(2, 5))):
        _place_group(generator, cutouts(split), image, label)
    blurred = cv2.GaussianBlur(image, (0, 0), generator.uniform(0.5, 0.8)) + generator.normal(0, 2.0, image.shape)
    pixels = np.repeat(blurred.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    return Picture(f"{split}_{index:04d}", pixels, InstanceAnnotation(label))


@lru_cache(maxsize=2)
def cutouts(split: Split) -> tuple[Cutout, ...]:
    """Cut the objects of a split out of their photographs.

    The coins are found as in scikit-image's own guide: a watershed of the gradient from what is surely coin and
    surely table, here opened so that scratches at the rim do not count.

    Args:
        split: whose region of the photographs.

    Returns:
        The objects, each with a free border of a pixel.
    """
    rows = slice(0, COINS_CUT) if split == "train" else slice(COINS_CUT, None)
    found = _cut_out(_photograph("coins")[rows], below=30, above=150)
    return (*found, *_cut_out(_photograph("cell"), below=90, above=150)) if split == "train" else found


def _cut_out(image: Gray, below: int, above: int) -> tuple[Cutout, ...]:
    from scipy import ndimage
    from skimage import filters, segmentation

    markers = np.where(image > above, 2, np.where(image < below, 1, 0))
    slope = filters.sobel(image)  # type: ignore[no-untyped-call]  # scikit-image has no types
    objects = segmentation.watershed(slope, markers) == 2  # type: ignore[no-untyped-call]  # the same
    objects = ndimage.binary_opening(ndimage.binary_fill_holes(objects), iterations=3)
    numbers, _ = ndimage.label(objects)
    found = []
    for number, place in enumerate(ndimage.find_objects(numbers), start=1):
        mask = np.pad(ndimage.binary_erosion(numbers[place] == number), 1)
        found.append(Cutout(np.pad(image[place], 1, mode="edge"), mask))
    return tuple(found)


@lru_cache(maxsize=8)
def _photograph(name: str) -> Gray:
    return load_picture(str(files("skimage") / "data" / f"{name}.png"))[:, :, 0].astype(np.float32)


def _surface(generator: np.random.Generator, split: Split, size: int) -> Gray:
    """Cut a square from a half of a photograph of a surface, darken it and flatten its contrast."""
    half = _photograph(SURFACES[int(generator.integers(len(SURFACES)))])
    middle = half.shape[1] // 2
    half = half[:, :middle] if split == "train" else half[:, middle:]
    side = int(generator.uniform(0.4, 1.0) * min(half.shape))
    top, left = (int(generator.integers(length - side + 1)) for length in half.shape)
    cut = cv2.resize(half[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    contrast = generator.uniform(6.0, 20.0) / max(float(cut.std()), 1.0)
    surface: Gray = (generator.uniform(30, 75) + contrast * (cut - cut.mean())).astype(np.float32)
    return surface


def _place_group(generator: np.random.Generator, objects: tuple[Cutout, ...], image: Gray, label: Labels) -> None:
    """Place one to three objects, each of the later ones on the edge of the one before."""
    group: list[_DrawnObject] = []
    for _ in range(int(generator.choice([1, 2, 3], p=[0.2, 0.4, 0.4]))):
        for _ in range(_ATTEMPTS):
            placed = _place(generator, objects[int(generator.integers(len(objects)))], len(image), group)
            if _fits(placed, label, group):
                label[placed.mask] = placed.number = int(label.max()) + 1
                image[placed.mask] = placed.image[placed.mask]
                group.append(placed)
                break


def _place(generator: np.random.Generator, cutout: Cutout, size: int, group: list[_DrawnObject]) -> _DrawnObject:
    """Turn and scale an object, and put it anywhere, or on the edge of the last of its group."""
    diameter = float(generator.uniform(*_DIAMETER) * size)
    center = generator.uniform(diameter / 2, size - diameter / 2, 2)
    if group:
        last, direction = group[-1], generator.uniform(0, 2 * np.pi)
        overlap = generator.uniform(*_OVERLAP) * min(diameter, last.diameter)
        distance = (diameter + last.diameter) / 2 - overlap
        center = last.center + distance * np.array([np.cos(direction), np.sin(direction)])
    scale = diameter / cutout.diameter
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    source = [cv2.resize(each, None, fx=scale, fy=scale, interpolation=method) for each in cutout.as_floats()]
    middle = (source[0].shape[1] / 2 - 0.5, source[0].shape[0] / 2 - 0.5)
    turn = cv2.getRotationMatrix2D(middle, generator.uniform(0, 360), 1.0)
    turn[:, 2] += center - middle
    values, inside = (cv2.warpAffine(each, turn, (size, size), flags=cv2.INTER_LINEAR) for each in source)
    gain, offset = generator.uniform(0.75, 1.15), generator.uniform(-10, 10)
    return _DrawnObject(gain * values + offset, inside > 0.5, center, diameter)


def _fits(placed: _DrawnObject, label: Labels, group: list[_DrawnObject]) -> bool:
    """Tell whether an object lies on the picture, touches its partner, hides little and keeps away from the others."""
    low, high = placed.center - placed.diameter / 2, placed.center + placed.diameter / 2
    if low.min() < 1 or high.max() > len(label) - 1:
        return False
    around = cv2.dilate(placed.mask.astype(np.uint8), np.ones((2 * _CLEARANCE + 1,) * 2, np.uint8)) > 0
    others = np.setdiff1d(label[around], [0, *(each.number for each in group[-1:])])
    if len(others) or not group:
        return not len(others)
    hidden = int((label[placed.mask] == group[-1].number).sum())
    visible = int((label == group[-1].number).sum()) - hidden
    return hidden >= _LEAST_HIDDEN and visible >= _VISIBLE * int(group[-1].mask.sum())
