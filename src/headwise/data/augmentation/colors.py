"""The corner detectors' colors: what they expect, and how their training pictures are distorted."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CORNER_MEAN = (0.47026115, 0.44719302, 0.40789654)
"""Mean of red, green and blue over COCO's pictures, in [0, 1]."""

CORNER_STD = (0.27809835, 0.27408164, 0.28863828)
"""Their standard deviations."""

# Principal components of the colors of ImageNet's pixels: variances, and red, green and blue in rows.
_VARIANCES = np.array([0.2141788, 0.01817699, 0.00341571])
_COMPONENTS = np.array(
    [
        [-0.56089297, 0.71832671, 0.41158938],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.58752847, -0.69563484, 0.41340352],
    ]
)
_LUMA = (0.299, 0.587, 0.114)


def distort_colors(image: Tensor, generator: np.random.Generator, jitter: float, lighting: float) -> Tensor:
    """Change brightness, contrast and saturation, in random order, then the light.

    With factors f drawn from [1 - jitter, 1 + jitter]: brightness multiplies by f; contrast and saturation blend,
    f * image + (1 - f) * gray, with the mean brightness of the undistorted picture and with its gray version. Light
    adds to all pixels the principal components of ImageNet's colors, scaled by their variances and by normal draws.
    Nothing is clipped.

    Args:
        image: (3, H, W) float32 RGB, in [0, 1].
        generator: the source of chance.
        jitter: largest relative change.
        lighting: standard deviation of the draws that scale the components.

    Returns:
        The distorted picture; the one given is left as it was.

    Reference:
        Krizhevsky et al., NIPS 2012, section 4.1 (light); princeton-vl/CornerNet-Lite at 6a54505d,
        core/sample/utils.py.
    """
    gray = torch.tensordot(torch.tensor(_LUMA), image, dims=1)
    others = {"brightness": 0.0, "contrast": float(gray.mean()), "saturation": gray}
    for name in generator.permutation(list(others)):
        factor = 1 + generator.uniform(-jitter, jitter)
        image = factor * image + (1 - factor) * others[name]
    light: NDArray[np.float64] = _COMPONENTS @ (_VARIANCES * generator.normal(0, lighting, 3))
    return image + torch.from_numpy(light).float().reshape(3, 1, 1)
