"""Square windows cut out of pictures with their boxes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional

from headwise.data.annotation import BoxAnnotation
from headwise.data.augmentation.colors import CORNER_MEAN

Boxes = NDArray[np.float64]

_MEAN_COLOR = tuple(round(255 * value) for value in CORNER_MEAN)


@dataclass(frozen=True)
class Window:
    """A square window on a picture that was scaled.

    Args:
        height: of the scaled picture, pixels.
        width: of the scaled picture, pixels.
        top: of the window, pixels of the scaled picture; may be negative.
        left: of the window.
        size: height and width of the window, pixels.
    """

    height: int
    width: int
    top: int
    left: int
    size: int

    def cut(self, image: NDArray[np.uint8]) -> Tensor:
        """Return what is seen through the window, in the mean color where that is outside of the picture.

        Args:
            image: (H, W, 3), not yet scaled.

        Returns:
            (3, size, size) uint8. Shrinking averages, enlarging is bilinear.
        """
        if self.height > image.shape[0]:
            return self._enlarge(image)
        canvas = np.empty((self.size, self.size, 3), np.uint8)
        canvas[:] = _MEAN_COLOR
        if (self.height, self.width) != image.shape[:2]:
            scaled = functional.resize(_to_tensor(image), [self.height, self.width], antialias=True)
            image = scaled.permute(1, 2, 0).numpy()
        top, left = max(self.top, 0), max(self.left, 0)
        seen = image[top : max(self.top + self.size, 0), left : max(self.left + self.size, 0)]
        rows, columns = top - self.top, left - self.left
        canvas[rows : rows + seen.shape[0], columns : columns + seen.shape[1]] = seen
        return _to_tensor(canvas)

    def _enlarge(self, image: NDArray[np.uint8]) -> Tensor:
        """Read the window's pixels only, however large the scaled picture would be."""
        y, x = self.height / image.shape[0], self.width / image.shape[1]
        # OpenCV counts from pixel centers: (c + 0.5) * scale - start - 0.5.
        matrix = np.array([[x, 0, (x - 1) / 2 - self.left], [0, y, (y - 1) / 2 - self.top]])
        seen = cv2.warpAffine(image, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR, borderValue=_MEAN_COLOR)
        return _to_tensor(np.asarray(seen, np.uint8))

    def see(self, annotation: BoxAnnotation, shape: tuple[int, ...]) -> tuple[BoxAnnotation, NDArray[np.float32]]:
        """Return the objects that are seen through the window.

        Args:
            annotation: on the picture, not yet scaled.
            shape: (height, width, ...) of that picture.

        Returns:
            What is left of the boxes, in the window's pixels, without those of which nothing is left; and for each
            the share of its area that is left, (n,) float32 in (0, 1].
        """
        scale = np.tile([self.width / shape[1], self.height / shape[0]], 2)
        whole = annotation.boxes.astype(np.float64) * scale - np.tile([self.left, self.top], 2)
        near = np.tile([max(-self.left, 0), max(-self.top, 0)], 2)
        far = np.tile([min(self.width - self.left, self.size), min(self.height - self.top, self.size)], 2)
        return keep_visible(annotation, whole, near, far)


def keep_visible(
    annotation: BoxAnnotation, boxes: Boxes, near: Boxes, far: Boxes
) -> tuple[BoxAnnotation, NDArray[np.float32]]:
    """Clip moved boxes and drop those of which nothing is left.

    Args:
        annotation: labels and flags of the boxes.
        boxes: (n, 4), where they are now.
        near: (4,) least x, y, x, y.
        far: (4,) greatest x, y, x, y.

    Returns:
        The clipped boxes with their labels and flags, and for each the share of its area that is left.
    """
    clipped = boxes.clip(near, np.maximum(far, near)).astype(np.float32)
    visible = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    seen = BoxAnnotation(clipped[visible], annotation.labels[visible], annotation.ignored[visible])
    shares = _areas(seen.boxes.astype(np.float64)) / _areas(boxes[visible])
    return seen, shares.clip(max=1).astype(np.float32)


def mirror(image: Tensor, annotation: BoxAnnotation) -> tuple[Tensor, BoxAnnotation]:
    """Swap left and right: edges at x go to W - x.

    Args:
        image: (3, H, W).
        annotation: on it.

    Returns:
        Both, mirrored.
    """
    boxes = annotation.boxes.copy()
    boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
    return image.flip(2), BoxAnnotation(boxes, annotation.labels, annotation.ignored)


def _areas(boxes: Boxes) -> Boxes:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _to_tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
