"""Augmentation of pictures with boxes: the corner detectors' crops, and torchvision's for detectors with anchors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from headwise.data.annotation import BoxAnnotation, Picture
from headwise.data.augmentation.colors import CORNER_MEAN, CORNER_STD, distort_colors
from headwise.data.augmentation.options import amount, check_options, factors, pixels, share
from headwise.data.augmentation.text import IMAGENET_MEAN, IMAGENET_STD, normalize
from headwise.data.augmentation.windows import Window, keep_visible, mirror

CORNER_SCALES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)

_LEAST_CROPPED = 4  # pixels; torchvision's crop of what is smaller may have no width at all


class CornerAugmentation:
    """The training pictures of CornerNet, CornerNet-Squeeze and CenterNet.

    A window of ``view`` times a random scale is centered on a random pixel that is at least ``border`` from the
    picture's edges (half, a quarter, ... of that where the picture is too small), resized, perhaps mirrored, and
    distorted in color. What is outside of the picture has the mean color; boxes are clipped to the window.

    Args:
        size: height and width of the result, pixels; published 511.
        view: height and width of the window at scale 1, pixels of the picture; None is the size, as published.
        scales: of the window, one of which is drawn.
        border: least distance of the window's center from the picture's edges, pixels.
        mirror: probability of a mirrored picture.
        jitter: largest relative change of brightness, contrast and saturation.
        lighting: standard deviation of the change of light; see `distort_colors`.
        min_kept: an object of which less than this share of the area is left becomes an ignored region, in [0, 1];
            published 0, so that the last sliver is an object.

    Raises:
        ValueError: an option out of its range.

    Reference:
        Law and Deng, CornerNet, ECCV 2018, section 4.1; princeton-vl/CornerNet-Lite at 6a54505d,
        core/sample/cornernet.py; Duankaiwen/CenterNet at 3ad3a106, sample/coco.py.

    Differs:
        Mirrored edges go to W - x, not W - 1 - x; boxes are clipped at W, not W - 1; shrinking averages; outside of
        the picture is the mean color, not black; red, green, blue in place of blue, green, red: a published
        checkpoint needs ``image.flip(0)``.
    """

    def __init__(
        self,
        size: int,
        *,
        view: int | None = None,
        scales: tuple[float, ...] = CORNER_SCALES,
        border: int = 128,
        mirror: float = 0.5,
        jitter: float = 0.4,
        lighting: float = 0.1,
        min_kept: float = 0.0,
    ) -> None:
        check_options(
            "CornerAugmentation",
            size=pixels(size),
            view=pixels(size if view is None else view),
            scales=factors(scales),
            border=amount(border),
            mirror=share(mirror),
            jitter=amount(jitter),
            lighting=amount(lighting),
            min_kept=share(min_kept),
        )
        self.size = size
        self.view = size if view is None else view
        self.scales = scales
        self.border = border
        self.mirror = mirror
        self.jitter = jitter
        self.lighting = lighting
        self.min_kept = min_kept

    def __call__(self, picture: Picture[BoxAnnotation], seed: int) -> tuple[Tensor, BoxAnnotation]:
        """Augment one picture.

        Args:
            picture: (H, W, 3) uint8 with its boxes.
            seed: decides everything random.

        Returns:
            The picture (3, size, size) as float32, normalized by `CORNER_MEAN` and `CORNER_STD`, and its boxes.
        """
        generator = np.random.default_rng(seed)
        side = max(int(self.view * generator.choice(self.scales)), 1)
        height, width = picture.image.shape[:2]
        top, left = (self._center(generator, length) - side // 2 for length in (height, width))
        window = Window(height, width, top, left, side)
        image = v2.functional.resize(window.cut(picture.image), [self.size, self.size], antialias=True)
        seen, kept = window.see(picture.annotation, picture.image.shape)
        boxes = (seen.boxes.astype(np.float64) * (self.size / side)).astype(np.float32)
        annotation = BoxAnnotation(boxes, seen.labels, seen.ignored | (kept < self.min_kept))
        if generator.random() < self.mirror:
            image, annotation = mirror(image, annotation)
        return finish(image, generator, self.jitter, self.lighting), annotation

    def _center(self, generator: np.random.Generator, length: int) -> int:
        """Draw a position of the window's center along one axis."""
        border = self.border
        while length <= 2 * border:
            border //= 2
        return int(generator.integers(border, length - border))


class BoxAugmentation:
    """The training pictures of detectors with anchors: by default SSD's, by torchvision.

    In this order: colors, zooming out (the picture on a larger canvas of the mean color), a crop that overlaps
    enough with some object, resizing and mirroring. An object whose center is outside of the crop is dropped.

    Args:
        size: height and width of the result, pixels.
        distort: probability of each change of color; 0 for none.
        zoom_out: greatest factor of the canvas, at a probability of one half; 1 for none.
        crop: whether to crop.
        mirror: probability of a mirrored picture.
        mean: of red, green and blue, in [0, 1], by which the picture is normalized; by default ImageNet's.
        std: of red, green and blue.

    Raises:
        ValueError: an option out of its range.

    Reference:
        Liu et al., SSD, ECCV 2016, sections 2.2 and 3.6; torchvision, references/detection/presets.py.
    """

    def __init__(
        self,
        size: int,
        *,
        distort: float = 0.5,
        zoom_out: float = 4.0,
        crop: bool = True,
        mirror: float = 0.5,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        check_options(
            "BoxAugmentation",
            size=pixels(size),
            distort=share(distort),
            zoom_out=(zoom_out, 1 <= zoom_out < float("inf"), "at least 1 and finite"),
            mirror=share(mirror),
            mean=(mean, len(mean) == 3 and all(0 <= each <= 1 for each in mean), "three numbers in [0, 1]"),
            std=(std, len(std) == 3 and all(0 < each <= 1 for each in std), "three numbers in (0, 1]"),
        )
        self.size = size
        self.mean, self.std = mean, std
        fill = [round(255 * value) for value in mean]
        steps: list[v2.Transform] = [v2.RandomPhotometricDistort(p=distort)] if distort > 0 else []
        steps += [v2.RandomZoomOut(fill=fill, side_range=(1.0, zoom_out), p=0.5)] if zoom_out > 1 else []
        steps += [v2.RandomIoUCrop()] if crop else []
        self._resize = v2.Resize((size, size), antialias=True)
        self._transform = v2.Compose([*steps, self._resize, v2.RandomHorizontalFlip(mirror)])

    def __call__(self, picture: Picture[BoxAnnotation], seed: int) -> tuple[Tensor, BoxAnnotation]:
        """Augment one picture.

        Args:
            picture: (H, W, 3) uint8 with its boxes.
            seed: decides everything random; the global random state is neither read nor changed.

        Returns:
            The picture (3, size, size) as float32, normalized by `mean` and `std`, and its boxes.
        """
        image = tv_tensors.Image(torch.from_numpy(picture.image).permute(2, 0, 1))
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(picture.annotation.boxes.astype(np.float64)),
            format="XYXY",
            canvas_size=picture.image.shape[:2],
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            image, boxes = (self._transform if min(image.shape[1:]) >= _LEAST_CROPPED else self._resize)(image, boxes)
        moved: NDArray[np.float64] = boxes.as_subclass(Tensor).numpy()
        annotation, _ = keep_visible(picture.annotation, moved, np.zeros(4), np.full(4, float(self.size)))
        return normalize(image, self.mean, self.std), annotation


def finish(image: Tensor, generator: np.random.Generator, jitter: float, lighting: float) -> Tensor:
    """Distort the colors of a (3, H, W) uint8 picture and normalize it for the corner detectors.

    Args:
        image: RGB.
        generator: the source of chance.
        jitter: see `distort_colors`.
        lighting: see `distort_colors`.

    Returns:
        (3, H, W) float32.
    """
    distorted = distort_colors(image.float() / 255, generator, jitter, lighting)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (CORNER_MEAN, CORNER_STD))
    return (distorted - mean) / std
