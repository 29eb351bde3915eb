"""Augmentation of pictures with their instance maps, by torchvision's transforms v2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from headwise.data.annotation import Picture
from headwise.data.augmentation.text import normalize
from headwise.data.instances import InstanceAnnotation
from headwise.whole import is_whole

_SLACK = 8  # pixels around the crop, for what the deformation pulls in


class InstanceAugmentation:
    """Random crop, rotation, elastic deformation, mirroring and brightness of a picture with its instance map.

    The crop is cut so large, from a picture that is mirrored at its border where it is too small, that a rotation
    brings no empty corners in. Numbers of objects stay; objects that leave the crop are gone.

    Args:
        size: height and width of the result, pixels.
        degrees: largest rotation.
        elastic: standard deviation, in pixels, of the displacements at the knots of the elastic deformation; 0 for
            none. The paper's is 10 on crops of 572.
        knots: along each axis, 3 in the paper.
        mirror: probability of a mirrored picture, along each axis.
        brightness: largest relative change of brightness and of contrast.

    Raises:
        ValueError: a number out of its range.

    Reference:
        Ronneberger et al., U-Net, MICCAI 2015, section 3.1.
    """

    def __init__(
        self,
        size: int,
        *,
        degrees: float = 180.0,
        elastic: float = 2.0,
        knots: int = 3,
        mirror: float = 0.5,
        brightness: float = 0.2,
    ) -> None:
        if (
            not is_whole(size, 1)
            or not is_whole(knots, 2)
            or not all(0 <= each < math.inf for each in (degrees, elastic, brightness))
            or not 0 <= mirror <= 1
        ):
            raise ValueError(
                "InstanceAugmentation: size is at least 1, knots 2, degrees, elastic and brightness 0, and mirror in "
                f"[0, 1]; found size={size}, knots={knots}, degrees={degrees}, elastic={elastic}, "
                f"brightness={brightness}, mirror={mirror}."
            )
        self.size = size
        self._around = math.ceil(size * math.sqrt(2)) + 2 * _SLACK if degrees or elastic else size
        steps: list[v2.Transform] = [v2.RandomCrop(self._around)]
        if degrees:
            bilinear = v2.InterpolationMode.BILINEAR
            steps.append(v2.RandomRotation([-degrees, degrees], interpolation=bilinear))
        if elastic:
            steps.append(_Elastic(elastic, knots))
        steps += [
            v2.CenterCrop(size),
            v2.RandomHorizontalFlip(mirror),
            v2.RandomVerticalFlip(mirror),
            v2.ColorJitter(brightness=brightness, contrast=brightness),
        ]
        self._transform = v2.Compose(steps)

    def __call__(self, picture: Picture[InstanceAnnotation], seed: int) -> tuple[Tensor, Tensor]:
        """Augment one picture.

        Args:
            picture: (H, W, 3) uint8 with its annotation.
            seed: decides everything random; the global random state is neither read nor changed.

        Returns:
            The picture (3, size, size) as float32, normalized, and the instance map (size, size) int64.
        """
        pixels, numbers = _enlarge(picture.image, self._around), _enlarge(picture.annotation.label, self._around)
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        label = tv_tensors.Mask(torch.from_numpy(numbers).long()[None])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            image, label = self._transform(image, label)
        return normalize(image), label.as_subclass(Tensor)[0]


class _Elastic(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Displace by bicubic interpolation between random vectors on a coarse grid (torchvision's draws each pixel)."""

    def __init__(self, deviation: float, knots: int) -> None:
        super().__init__()
        self.deviation, self.knots = deviation, knots

    def make_params(self, inputs: list[Any]) -> dict[str, Any]:
        """Draw the displacements, (1, H, W, 2), in halves of height and width."""
        height, width = v2.query_size(inputs)
        vectors = self.deviation * torch.randn(1, 2, self.knots, self.knots)
        pixels = interpolate(vectors, (height, width), mode="bicubic", align_corners=True)
        return {"displacement": pixels.permute(0, 2, 3, 1) / torch.tensor([width / 2, height / 2])}

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        """Displace one input; numbers of objects are picked, not mixed."""
        return self._call_kernel(F.elastic, value, displacement=params["displacement"])


def _enlarge(pixels: NDArray[Any], size: int) -> NDArray[Any]:
    """Mirror (H, W, ...) at its border, as often as needed, until it is `size` pixels high and wide."""
    missing = [max(size - length, 0) for length in pixels.shape[:2]]
    around = [(each // 2, each - each // 2) for each in missing]
    return np.pad(pixels, [*around, *[(0, 0)] * (pixels.ndim - 2)], mode="symmetric")
