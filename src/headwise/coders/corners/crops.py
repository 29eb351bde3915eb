"""Square windows of a picture at several zooms: what CornerNet-Saccade looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headwise.coders.corners.placement import Size
from headwise.whole import check_size, check_whole


@dataclass(frozen=True)
class Crops:
    """Windows of a picture, resampled to one size.

    Args:
        offsets: (n, 2) x, y of the window's left top corner in pixels of the picture; may be negative.
        scales: (n,) pixels of the crop per pixel of the picture.
        window: Side of a crop in pixels.
    """

    offsets: Tensor
    scales: Tensor
    window: int

    def __len__(self) -> int:
        return len(self.scales)

    def __getitem__(self, rows: slice) -> Crops:
        return Crops(self.offsets[rows], self.scales[rows], self.window)

    def to_image(self, points: Tensor, crop: Tensor | int) -> Tensor:
        """Points (..., 2) x, y of crops, given by number, as points of the picture."""
        scales, offsets = self.scales[crop].unsqueeze(-1).to(points), self.offsets[crop].to(points)
        return points / scales + offsets

    def cut(self, image: Tensor) -> Tensor:
        """The crops, bilinearly resampled, zero outside the picture.

        Args:
            image: (channels, H, W) floating.

        Returns:
            (n, channels, window, window).
        """
        height, width = image.shape[-2:]
        inside = torch.arange(self.window, device=image.device, dtype=image.dtype) + 0.5
        steps = inside / self.scales[:, None].to(image)
        offsets = self.offsets.to(image)
        x = 2 * (offsets[:, :1] + steps) / width - 1
        y = 2 * (offsets[:, 1:] + steps) / height - 1
        shape = (len(self), self.window, self.window)
        grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], -1)
        return F.grid_sample(
            image.expand(len(self), *image.shape), grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )


def crops_around(locations: Tensor, *, window: int = 255, as_published: bool = False) -> Crops:
    """Windows whose middles are at given locations.

    Args:
        locations: (n, >= 3) x, y, scale.
        window: Side of a crop in pixels.
        as_published: Round middles and sides of windows to whole pixels of the picture.

    Returns:
        The windows.

    Raises:
        ValueError: The window is no number of pixels.
    """
    check_whole("crops_around", window=window)
    scales = locations[:, 2]
    if as_published:
        sides = (window / scales).floor()
        return Crops(locations[:, :2].trunc() - (sides / 2).floor()[:, None], scales, window)
    return Crops(locations[:, :2] - window / (2 * scales[:, None]), scales, window)


def initial_locations(image_size: Size, sizes: tuple[int, ...] = (192, 255), *, as_published: bool = False) -> Tensor:
    """The whole picture, its long side shrunk to each size.

    Args:
        image_size: Height and width.
        sizes: Pixels of a crop that the long side takes.
        as_published: Round the middle to whole pixels.

    Returns:
        (n, 4) x, y, scale, score 1.

    Raises:
        ValueError: A size is no number of pixels.
    """
    check_size("initial_locations", image_size=image_size)
    for size in sizes:
        check_whole("initial_locations", sizes=size)
    height, width = image_size
    middle = (width // 2, height // 2) if as_published else (width / 2, height / 2)
    return torch.tensor([[*middle, size / max(height, width), 1.0] for size in sizes], dtype=torch.float32)
