"""Where a picture lies in the network's input, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headwise.whole import check_size, is_whole

Mirror = Literal["edges", "centers"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """A picture, resized and laid into the middle of an input. Sizes are (height, width) in pixels.

    Args:
        image_size: The picture.
        resized_size: The picture inside the input.
        input_size: The input.
        left: Columns of the input left of the picture.
        top: Rows above it.
        scale: What was asked of ``resized_size`` / ``image_size``, before rounding to whole pixels.
    """

    image_size: Size
    resized_size: Size
    input_size: Size
    left: int
    top: int
    scale: float

    def fill(self, image: Tensor, *, mirrored: bool = False) -> Tensor:
        """The input: the picture resized, zeros around it.

        Args:
            image: (3, H, W) floating, of ``image_size``.
            mirrored: Add the input's mirror image.

        Returns:
            (1, 3, height, width), or (2, ...) with the mirror image second.

        Raises:
            ValueError: If the picture is of another size.
        """
        if image.ndim != 3 or tuple(image.shape[-2:]) != self.image_size or not image.is_floating_point():
            raise ValueError(
                f"fill: the picture must be floating (channels, {self.image_size[0]}, {self.image_size[1]}), found "
                f"{image.dtype} {tuple(image.shape)}."
            )
        resized = image[None]
        if self.resized_size != self.image_size:
            resized = F.interpolate(resized, self.resized_size, mode="bilinear", align_corners=False)
        right = self.input_size[1] - self.left - self.resized_size[1]
        below = self.input_size[0] - self.top - self.resized_size[0]
        filled = F.pad(resized, (self.left, right, self.top, below))
        return torch.cat([filled, filled.flip(-1)]) if mirrored else filled

    def mirror(self, x: Tensor, convention: Mirror) -> Tensor:
        """Columns of the input's mirror image as columns of the input.

        ``edges``: x' = W - x, coordinates being edges of pixels, as here. ``centers``: x' = W - 1 - x, coordinates
        being indices of pixels, as CornerNet and CenterNet train.

        Args:
            x: Columns of the mirror image.
            convention: What a coordinate means.

        Returns:
            Columns of the input.
        """
        return self.input_size[1] - (convention == "centers") - x

    def to_resized(self, points: Tensor) -> Tensor:
        """Points (..., 2) x, y of the input as points of the resized picture."""
        return points - points.new_tensor([self.left, self.top])

    def to_image(self, points: Tensor, *, as_published: bool = False) -> Tensor:
        """Points (..., 2) x, y of the resized picture as points of the picture.

        Args:
            points: Points of the resized picture.
            as_published: Divide by ``scale``, as if no size had been rounded.

        Returns:
            Points of the picture.
        """
        ratios = [resized / size for resized, size in zip(self.resized_size, self.image_size, strict=True)]
        height_ratio, width_ratio = [self.scale] * 2 if as_published else ratios
        return points / points.new_tensor([width_ratio, height_ratio])


def place_picture(
    image_size: Size, *, scale: float = 1.0, input_size: Size | None = None, multiple: int = 128
) -> Placement:
    """Lay a picture into an input.

    Args:
        image_size: Height and width of the picture.
        scale: How much larger the picture gets.
        input_size: Stretch the picture over an input of this size instead, as in training. None: the picture keeps its
            shape in the middle of an input whose sides are the next multiple of ``multiple``, less 1, as the authors
            test.
        multiple: A power of 2: the stride of the network's coarsest features.

    Returns:
        The placement.

    Raises:
        ValueError: If a side would have no pixel, or ``multiple`` is no power of 2.
    """
    if not is_whole(multiple, 1) or multiple & (multiple - 1):
        raise ValueError(f"place_picture: multiple must be a power of 2, found {multiple!r}.")
    check_size("place_picture", image_size=image_size, **({} if input_size is None else {"input_size": input_size}))
    resized = (int(image_size[0] * scale), int(image_size[1] * scale)) if input_size is None else input_size
    if min(*image_size, *resized) < 1 or not scale > 0:
        raise ValueError(f"place_picture: no pixel is left of {image_size} at scale {scale}, input {input_size}.")
    if input_size is not None:
        return Placement(image_size, resized, resized, 0, 0, scale)
    sides = (resized[0] | (multiple - 1), resized[1] | (multiple - 1))
    top, left = (side // 2 - length // 2 for side, length in zip(sides, resized, strict=True))
    return Placement(image_size, resized, sides, left, top, scale)
