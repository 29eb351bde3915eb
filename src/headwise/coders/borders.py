"""U-Net's weight map: background between objects that nearly touch weighs most."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headwise.masks import ordered
from headwise.require import require

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def encode_border_weights(
    label: Tensor | npt.NDArray[np.integer[Any]],
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    balance: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weights of the pixels of instance maps.

    ``w = w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2))``, d1 and d2 the distances in pixels to the nearest and the second
    nearest object, and ``w_c = num_pixels / (2 num_pixels_of_class)`` of the image, the classes being object and
    background. The second summand is for background pixels of images with two objects or more: where objects touch
    there is none, so take a pixel between them out of both if they are to be told apart.

    Args:
        label: Number of the object at each pixel, 0 for background, (H, W) or (N, H, W), integer, at least 0, a tensor
            or an array. Numbers need not be consecutive.
        w0: Height of the border term, >= 0.
        sigma: Its width in pixels, > 0.
        balance: Whether w_c balances the classes; else it is 1.
        dtype: Of the weights; computed in float64.

    Returns:
        The weights, in the label's shape, on the CPU.

    Raises:
        ValueError: If a dtype, a shape, a number or an option is out of its range.
        ImportError: If scipy is missing.

    Reference:
        Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015, equation 2.

    Differs:
        The paper does not say what holds inside objects, nor how w_c is computed; the choices here are above.
    """
    label = as_instances("encode_border_weights", label)
    if not (0 <= w0 < math.inf and sigma > 0):
        raise ValueError(
            f"encode_border_weights: w0 must be at least 0 and finite, and sigma positive, found w0={w0}, "
            f"sigma={sigma}. The paper's values are 10 and 5."
        )
    if not dtype.is_floating_point:
        raise ValueError(f"encode_border_weights: weights are fractions, found dtype={dtype}. The default is float32.")
    maps = label.detach().cpu().reshape(label.shape[:-2].numel(), *label.shape[-2:]).numpy()
    images = [torch.from_numpy(_border_term(image, w0, sigma) + _class_weights(image, balance)) for image in maps]
    if not images:
        return torch.empty(label.shape, dtype=dtype)
    return torch.stack(images).reshape(label.shape).to(dtype)


def as_instances(coder: str, label: Tensor | npt.NDArray[np.integer[Any]]) -> Tensor:
    """Asks for the numbers of objects.

    Args:
        coder: Name of the coder, for the message.
        label: Instance maps, a tensor or an array.

    Returns:
        The maps as a tensor.

    Raises:
        ValueError: A dtype, a shape or a number does not fit.
    """
    label = torch.as_tensor(label)
    if label.dtype == torch.bool or label.is_floating_point() or label.is_complex() or label.ndim not in {2, 3}:
        raise ValueError(
            f"{coder}: label is an integer map of object numbers, (H, W) or (N, H, W), found {label.dtype} of shape "
            f"{tuple(label.shape)}. Number the objects, for instance with scipy.ndimage.label."
        )
    if label.numel() and int(ordered(label).min()) < 0:
        raise ValueError(
            f"{coder}: object numbers are at least 0, found {int(ordered(label).min())}. "
            "Give pixels to be ignored the number 0 and mask them in the loss."
        )
    return label


def _class_weights(image: npt.NDArray[Any], balance: bool) -> npt.NDArray[Any]:
    import numpy as np

    if not balance:
        return np.ones(image.shape)
    objects = image > 0
    num_objects = int(objects.sum())
    num_background = image.size - num_objects
    return np.where(objects, image.size / (2 * max(num_objects, 1)), image.size / (2 * max(num_background, 1)))


def _border_term(image: npt.NDArray[Any], w0: float, sigma: float) -> npt.NDArray[Any]:
    require("coders.borders", "data", "numpy", "scipy")
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    numbers = np.unique(image[image > 0])
    if len(numbers) < 2:
        return np.zeros(image.shape)
    nearest = np.full(image.shape, np.inf)
    second = np.full(image.shape, np.inf)
    for number in numbers:
        distance = distance_transform_edt(image != number)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    return np.where(image == 0, w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2)), 0.0)
