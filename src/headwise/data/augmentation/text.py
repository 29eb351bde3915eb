"""Augmentation of pictures with their polygons, by torchvision's transforms v2.

torchvision mirrors key points about pixel centers (x to W - 1 - x) but scales and rotates them as if the
middle of the first pixel were (0.5, 0.5). Ours are pixel centers throughout, so they are shifted by half a
pixel around those two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from headwise.data.annotation import Picture, TextAnnotation, visible_fraction
from headwise.data.augmentation.options import amount, check_options, pixels, share

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class TextAugmentation:
    """Random rotation, resized crop, mirroring and photometric distortion of an annotated picture.

    A word of which less than `keep` of the area is left inside the crop is ignored (neither text nor
    background); one that left altogether is dropped; the others keep their whole outline, which may reach
    beyond the border.

    Args:
        size: height and width of the result, pixels.
        scale: range of the cropped share of the picture's area.
        degrees: largest rotation.
        mirror: probability of a mirrored picture.
        keep: fraction of a word's area that must stay visible, in [0, 1].

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        size: int,
        *,
        scale: tuple[float, float] = (0.5, 1.0),
        degrees: float = 10.0,
        mirror: float = 0.5,
        keep: float = 0.7,
    ) -> None:
        check_options(
            "TextAugmentation",
            size=pixels(size),
            scale=(scale, len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1, "two shares, 0 < low <= high <= 1"),
            degrees=amount(degrees),
            mirror=share(mirror),
            keep=share(keep),
        )
        self.size = size
        self.keep = keep
        rotation = v2.RandomRotation([-degrees, degrees], interpolation=v2.InterpolationMode.BILINEAR)
        self._transform = v2.Compose(
            [
                _MovedPoints(0.5),
                v2.RandomApply([rotation], p=0.5 if degrees else 0.0),
                v2.RandomResizedCrop(size, scale=scale, ratio=(0.8, 1.25), antialias=True),
                _MovedPoints(-0.5),
                v2.RandomHorizontalFlip(mirror),
                v2.RandomPhotometricDistort(p=0.4),
                v2.RandomGrayscale(0.1),
            ]
        )

    def __call__(self, picture: Picture, seed: int) -> tuple[Tensor, TextAnnotation]:
        """Augment one picture.

        Args:
            picture: (H, W, 3) uint8 with its annotation.
            seed: decides everything random; the global random state is neither read nor changed.

        Returns:
            The picture (3, size, size) as float32, normalized, and its annotation.
        """
        annotation = picture.annotation
        image = tv_tensors.Image(torch.from_numpy(picture.image).permute(2, 0, 1))
        points = np.concatenate([np.zeros((0, 2)), *annotation.polygons])
        key_points = tv_tensors.KeyPoints(torch.from_numpy(points), canvas_size=picture.image.shape[:2])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            image, key_points = self._transform(image, key_points)
        lengths = [len(polygon) for polygon in annotation.polygons]
        moved = np.split(key_points.numpy(), np.cumsum(lengths)[:-1]) if lengths else []
        return normalize(image), self._sift(annotation, moved)

    def _sift(self, annotation: TextAnnotation, polygons: list[NDArray[np.float64]]) -> TextAnnotation:
        """Drop the words that left the crop and ignore those that were cut."""
        visible = [visible_fraction(polygon, self.size, self.size) for polygon in polygons]
        kept = [index for index, fraction in enumerate(visible) if fraction > 0]
        return TextAnnotation(
            tuple(polygons[index] for index in kept),
            tuple(annotation.ignored[index] or visible[index] < self.keep for index in kept),
            tuple(annotation.words[index] for index in kept),
        )


def normalize(
    image: Tensor | NDArray[np.uint8],
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Tensor:
    """Scale a picture to the statistics that a network expects, by default those of ImageNet's backbones.

    Args:
        image: uint8 RGB, (3, H, W) as a tensor or (H, W, 3) as an array.
        mean: of red, green and blue, in [0, 1].
        std: of red, green and blue, in (0, 1].

    Returns:
        (3, H, W) float32.

    Raises:
        ValueError: another dtype, no three colors, or a mean or std out of range.
    """
    last = -1 if isinstance(image, np.ndarray) else -3
    if image.dtype not in (np.uint8, torch.uint8) or image.ndim < 3 or image.shape[last] != 3:
        raise ValueError(
            "normalize: a picture is uint8 RGB, an array (H, W, 3) or a tensor (3, H, W), found "
            f"{tuple(image.shape)} {image.dtype}. Convert it; what is in [0, 1] times 255."
        )
    if not (all(0 <= each <= 1 for each in mean) and all(0 < each <= 1 for each in std)):
        raise ValueError(
            f"normalize: mean is in [0, 1] and std in (0, 1], of pixels in [0, 1]; found {mean} and {std}. Divide what "
            "was measured in [0, 255] by 255."
        )
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return (image.as_subclass(Tensor).float() / 255 - _column(mean)) / _column(std)


def _column(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).reshape(3, 1, 1)


class _MovedPoints(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Shift key points by a constant; pictures pass."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        """Shift one input if it is key points."""
        if not isinstance(value, tv_tensors.KeyPoints):
            return value
        return tv_tensors.wrap(value.as_subclass(Tensor) + self.offset, like=value)
