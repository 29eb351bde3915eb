"""Curves that words are set along.

Flat coordinates are u along the word and v down from its middle line.

Both directions are closed forms, so the outline of a word is exact and its pixels need no search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A placed curve.

    Args:
        kind: "straight"; "arc", a circle; "wave", a sine whose words are sheared, not rotated, along it.
        center: (x, y) of the middle of the word on the picture, pixels.
        angle: rotation of the word, radians, clockwise on the picture (y points down).
        radius: of an arc, pixels; positive like a rainbow, negative like a smile.
        amplitude: of a wave, pixels.
        wavelength: of a wave, pixels.
        phase: of a wave, radians.
    """

    kind: Literal["straight", "arc", "wave"]
    center: tuple[float, float]
    angle: float
    radius: float = 1.0
    amplitude: float = 0.0
    wavelength: float = 1.0
    phase: float = 0.0

    def to_picture(self, flat: Points) -> Points:
        """Map flat (..., 2) points (u, v) to picture points (x, y)."""
        u, v = flat[..., 0], flat[..., 1]
        if self.kind == "arc":
            turn = u / self.radius
            u, v = (self.radius - v) * np.sin(turn), self.radius - (self.radius - v) * np.cos(turn)
        elif self.kind == "wave":
            v = v + self._wave(u)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.stack([self.center[0] + cos * u - sin * v, self.center[1] + sin * u + cos * v], axis=-1)

    def to_flat(self, picture: Points) -> Points:
        """Map picture (..., 2) points (x, y) to flat points (u, v): the inverse of `to_picture`."""
        x, y = picture[..., 0] - self.center[0], picture[..., 1] - self.center[1]
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        u, v = cos * x + sin * y, cos * y - sin * x
        if self.kind == "arc":
            sign = np.sign(self.radius)
            distance = np.hypot(u, self.radius - v)
            u, v = self.radius * np.arctan2(sign * u, sign * (self.radius - v)), self.radius - sign * distance
        elif self.kind == "wave":
            v = v - self._wave(u)
        return np.stack([u, v], axis=-1)

    def _wave(self, u: Points) -> Points:
        offset: Points = self.amplitude * np.sin(2 * np.pi * u / self.wavelength + self.phase)
        return offset

    def outline(self, width: float, height: float) -> Points:
        """Return the outline of a word of that flat size: its top edge forward, its bottom edge back.

        Args:
            width: pixels along the curve.
            height: pixels across.

        Returns:
            (4, 2) points for a straight word, (14, 2) for a curved one; the sag between two points of an arc
            of two radians is below 2 % of its radius.
        """
        num_points = 2 if self.kind == "straight" else 7
        along = np.linspace(-width / 2, width / 2, num_points)
        top = np.stack([along, np.full(num_points, -height / 2)], axis=-1)
        bottom = np.stack([along[::-1], np.full(num_points, height / 2)], axis=-1)
        return self.to_picture(np.concatenate([top, bottom]))


def random_curve(generator: np.random.Generator, width: float, height: float, center: tuple[float, float]) -> Curve:
    """Draw a curve for a word of that flat size.

    Args:
        generator: the source of chance.
        width: pixels along the curve.
        height: pixels across; an arc is never so tight that its inner edge would fold.
        center: (x, y) of the middle of the word.

    Returns:
        A straight word (3 of 10), an arc (5 of 10) or a wave (2 of 10), rotated by about 20 degrees.
    """
    angle = float(np.clip(generator.normal(0.0, 0.35), -1.0, 1.0))
    draw = generator.random()
    if draw < 0.3:
        return Curve("straight", center, angle)
    if draw < 0.8:
        turn = min(generator.uniform(0.5, 2.2), width / (1.2 * height))
        sign = 1 if generator.random() < 0.7 else -1
        return Curve("arc", center, angle, radius=sign * width / turn)
    wavelength = width * generator.uniform(0.8, 1.4)
    amplitude = min(generator.uniform(0.15, 0.4) * height, 0.5 * wavelength / (2 * np.pi))
    phase = generator.uniform(0, 2 * np.pi)
    return Curve("wave", center, angle, amplitude=amplitude, wavelength=wavelength, phase=phase)
