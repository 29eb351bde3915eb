"""The training crops of CornerNet-Saccade: looks at one object from near, at any size it may have there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headwise.data.annotation import BoxAnnotation, Picture
from headwise.data.augmentation.boxes import finish
from headwise.data.augmentation.options import amount, check_options, factors, pixels, share
from headwise.data.augmentation.windows import Boxes, Window, keep_visible, mirror

SACCADE_RANGES = ((16.0, 32.0), (32.0, 96.0), (96.0, 255.0))
SACCADE_SCALES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

_NEAR_CENTER = 15  # pixels by which a centered crop may miss the object's center, and one more draw of as much


class SaccadeAugmentation:
    """Crops around a random object that is scaled to a random size of its own range.

    A reference object is drawn; its longer side decides the range (small, medium, large), from which the side that
    it shall have is drawn, and so the scale of the picture. Half of the crops are centered near the object, the others
    hold all of it anywhere. A picture without objects is scaled and cropped at random.

    Args:
        size: height and width of the crop, pixels; published 255.
        ranges: of the longer side of the reference object in the crop, small to large; the last may not exceed the
            size.
        scales: of a picture without objects, one of which is drawn.
        mirror: probability of a mirrored crop.
        jitter: largest relative change of brightness, contrast and saturation.
        lighting: standard deviation of the change of light; see `distort_colors`.

    Raises:
        ValueError: ranges in which an object would not fit into the crop, or another option out of its range.

    Reference:
        Law et al., CornerNet-Lite, BMVC 2020, section 3; princeton-vl/CornerNet-Lite at 6a54505d,
        core/sample/cornernet_saccade.py.

    Differs:
        As `CornerAugmentation`; crowds are no reference; sides are real numbers.
    """

    def __init__(
        self,
        size: int = 255,
        *,
        ranges: tuple[tuple[float, float], ...] = SACCADE_RANGES,
        scales: tuple[float, ...] = SACCADE_SCALES,
        mirror: float = 0.5,
        jitter: float = 0.4,
        lighting: float = 0.1,
    ) -> None:
        check_options(
            "SaccadeAugmentation",
            size=pixels(size),
            scales=factors(scales),
            mirror=share(mirror),
            jitter=amount(jitter),
            lighting=amount(lighting),
        )
        if not all(0 < low <= high <= size for low, high in ranges):
            raise ValueError(f"ranges {ranges}: each must be 0 < low <= high <= size, which is {size}. Narrow them.")
        self.size = size
        self.ranges = ranges
        self.scales = scales
        self.mirror = mirror
        self.jitter = jitter
        self.lighting = lighting

    def __call__(self, picture: Picture[BoxAnnotation], seed: int) -> tuple[Tensor, BoxAnnotation, NDArray[np.float32]]:
        """Cut one crop.

        Args:
            picture: (H, W, 3) uint8 with its boxes.
            seed: decides everything random.

        Returns:
            The crop (3, size, size) as float32, normalized by `CORNER_MEAN` and `CORNER_STD`; its boxes, clipped; and
            for each the share of its area that is left, (n,), which `encode_saccade` takes as ``kept``.
        """
        generator = np.random.default_rng(seed)
        height, width = picture.image.shape[:2]
        reference = _draw_reference(generator, picture)
        scale = self._draw_scale(generator, reference)
        scaled = max(round(height * scale), 1), max(round(width * scale), 1)
        centered = bool(generator.random() < 0.5)
        start = []
        for axis, (length, whole) in enumerate(zip((height, width), scaled, strict=True)):
            # Boxes have x before y, shapes the other way round.
            span = None if reference is None else reference[[1 - axis, 3 - axis]] * whole / length
            start.append(_draw_start(generator, whole, self.size, span, centered))
        window = Window(*scaled, start[0], start[1], self.size)
        image = window.cut(picture.image)
        annotation, kept = window.see(picture.annotation, picture.image.shape)
        if generator.random() < self.mirror:
            image, annotation = mirror(image, annotation)
        return finish(image, generator, self.jitter, self.lighting), annotation, kept

    def _draw_scale(self, generator: np.random.Generator, reference: Boxes | None) -> float:
        if reference is None:
            return float(generator.choice(self.scales))
        side = float((reference[2:] - reference[:2]).max())
        low, high = next((limits for limits in self.ranges if side <= limits[1]), self.ranges[-1])
        return float(generator.uniform(low, high)) / side


def _draw_reference(generator: np.random.Generator, picture: Picture[BoxAnnotation]) -> Boxes | None:
    """Draw an object that is no ignored region; return the part of its box (4,) on the picture."""
    annotation = picture.annotation.select(~picture.annotation.ignored)
    height, width = picture.image.shape[:2]
    far = np.array([width, height, width, height], np.float64)
    visible, _ = keep_visible(annotation, annotation.boxes.astype(np.float64), np.zeros(4), far)
    if not len(visible):
        return None
    boxes = visible.boxes.astype(np.float64)
    return np.asarray(boxes[int(generator.integers(len(boxes)))])


def _draw_start(generator: np.random.Generator, length: int, size: int, span: Boxes | None, centered: bool) -> int:
    """Draw where the crop begins along one axis.

    Args:
        generator: the source of chance.
        length: of the scaled picture, pixels.
        size: of the crop; a picture that is not longer is put in its middle.
        span: (2,) where the reference object begins and ends; None where there is none.
        centered: whether the crop's middle is near that of the object, else it holds all of it.

    Returns:
        Pixels of the scaled picture; negative where the crop begins before it.
    """
    if length <= size:
        return length // 2 - size // 2
    if span is None or not centered:
        low, high = (0.0, float(length)) if span is None else (float(span[1]) - size, float(span[0]))
        low, high = max(low, 0), min(high, length - size)
        return int(generator.integers(int(np.ceil(low)), max(int(high), int(np.ceil(low))) + 1))
    middle = int(span.mean())
    low, high = (middle + sign * int(generator.integers(_NEAR_CENTER)) for sign in (-1, 1))
    return int(generator.integers(max(low, 0), min(high, length - 1) + 1)) - size // 2
