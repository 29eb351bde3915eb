"""Printing a flat word along a curve onto a picture, in a color that can be seen there."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from headwise.data.annotation import Polygon
from headwise.data.embedded.curves import Curve
from headwise.data.embedded.words import FlatWord, Ink

Pixels = NDArray[np.uint8]
Color = NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])
"""What red, green and blue add to the brightness that is seen."""
_GAP = 4
_COLOR_DRAWS = 12


def claim(taken: NDArray[np.uint8], polygon: Polygon) -> bool:
    """Reserve a polygon's place on a picture.

    Args:
        taken: (H, W) non-zero where a word already is; the polygon is added to it on success, with a gap
            around it.
        polygon: (v, 2) points.

    Returns:
        False where the polygon leaves the picture or meets a word.
    """
    height, width = taken.shape
    if polygon.min() < 1 or polygon[:, 0].max() > width - 2 or polygon[:, 1].max() > height - 2:
        return False
    place = np.zeros_like(taken)
    cv2.fillPoly(place, [polygon.round().astype(np.int32)], 1)
    if (place & taken).any():
        return False
    taken[cv2.dilate(place, np.ones((2 * _GAP + 1, 2 * _GAP + 1), np.uint8)) > 0] = 1
    return True


def print_word(generator: np.random.Generator, image: Pixels, word: FlatWord, curve: Curve, contrast: float) -> None:
    """Print a word onto a picture, in place.

    Args:
        generator: the source of chance: color, opacity, and whether there is an outline around the letters.
        image: (H, W, 3).
        word: the ink.
        curve: where it goes.
        contrast: the difference in luma, 0 to 255, that ink and background should have.
    """
    polygon = curve.outline(word.width, word.height)
    left, top = np.floor(polygon.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(polygon.max(axis=0)).astype(int) + 2
    left, top = max(left, 0), max(top, 0)
    patch = image[top:bottom, left:right]
    grid = np.stack(np.meshgrid(np.arange(left, left + patch.shape[1]), np.arange(top, top + patch.shape[0])), axis=-1)
    flat = curve.to_flat(grid.astype(np.float64))
    origin = np.array([word.ink.shape[1] - 1, word.ink.shape[0] - 1]) / 2
    where = (flat + origin).astype(np.float32)
    ink = _sample(word.ink, where)
    behind = patch.reshape(-1, 3).mean(axis=0)
    color = visible_color(generator, float(behind @ LUMA), contrast)
    opacity = generator.uniform(0.85, 1.0)
    painted = patch.astype(np.float64)
    if contrast > 40 and generator.random() < 0.35:
        outline = _sample(word.outline, where)
        edge = np.full(3, 255.0 if color @ LUMA < 128 else 0.0)
        painted += 0.8 * outline * (edge - painted)
    painted += opacity * ink * (color - painted)
    image[top:bottom, left:right] = painted.round().clip(0, 255).astype(np.uint8)


def _sample(ink: Ink, where: Ink) -> Ink:
    """Read the ink at (H, W, 2) positions, bilinearly, as (H, W, 1)."""
    x, y = where[..., 0], where[..., 1]
    return np.asarray(cv2.remap(ink, x, y, cv2.INTER_LINEAR), dtype=np.float32)[..., None]


def visible_color(generator: np.random.Generator, luma: float, contrast: float) -> Color:
    """Draw a color whose luma differs from the given one by about `contrast`, or by what room there is.

    Args:
        generator: the source of chance.
        luma: of the background, 0 to 255.
        contrast: difference wanted, 0 to 255.

    Returns:
        (3,) RGB, 0 to 255.
    """
    brighter = generator.random() < 0.5
    room = 255 - luma if brighter else luma
    if room < contrast:
        brighter = luma < 128
    goal = float(np.clip(luma + (contrast if brighter else -contrast), 0, 255))
    draws = generator.uniform(0, 255, (_COLOR_DRAWS, 3))
    nearest = draws[np.argmin(abs(draws @ LUMA - goal))]
    shifted: Color = (nearest + goal - nearest @ LUMA).clip(0, 255)
    return shifted
