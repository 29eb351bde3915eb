"""Losses of a quantizing autoencoder and its discriminator: means within each image, so that images alone are counted.

What they read has a size that no target has (patches, codes); divided by `normalizers.images`, they are the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.parts.checks import check_output, working_dtype


@declared(count=normalizers.images)
def one_sided_squared_error(output: Tensor, held: Tensor, target: Tensor) -> Tensor:
    """Sum over images of the mean squared distance of one output from another, which is held fixed.

    ``sum over n of mean over i of (output_ni - held_ni)^2``, without a gradient to ``held``. The codes of a quantizer
    are drawn to the encoding by ``(codes, encoding)``, the encoding is bound to its codes by ``(encoding, codes)``.

    Args:
        output: What is moved, (N, ...), any floating dtype.
        held: What it is drawn to, of the output's shape.
        target: Any tensor (N, ...), such as the images: its images are counted, it is not looked at.

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        Van den Oord et al., Neural discrete representation learning, NeurIPS 2017, equation 3.
    """
    if output.shape != held.shape:
        raise ValueError(
            f"one_sided_squared_error: both outputs have one shape, found {tuple(output.shape)} and "
            f"{tuple(held.shape)}. Hand out the chosen codes at each place of the encoding."
        )
    values = _values("one_sided_squared_error", output, target)
    return _sum_of_means((values - held.detach().to(values.dtype)).square())


@declared(count=normalizers.images)
def discriminator_hinge(output: Tensor, target: Tensor, *, real: bool) -> Tensor:
    """Sum over images of the mean hinge loss of a discriminator's logits, for images that are real or are not.

    ``sum over n of mean over i of max(0, 1 - s output_ni)``, s = 1 for real images and -1 for made ones.

    Args:
        output: Logits of images or of their patches, (N, ...), any floating dtype.
        target: Any tensor (N, ...), such as the images: its images are counted, it is not looked at.
        real: Whether these are real images.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits).

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        Lim and Ye, Geometric GAN, 2017; CompVis/taming-transformers at 9944179a, taming/modules/losses/vqperceptual.py,
        hinge_d_loss.
    """
    logits = _values("discriminator_hinge", output, target)
    return _sum_of_means(torch.relu(1 - logits if real else 1 + logits))


@declared(count=normalizers.images)
def generator_hinge(output: Tensor, target: Tensor) -> Tensor:
    """Minus the sum over images of the mean of a discriminator's logits: what a generator is to make it say.

    Args:
        output: Logits of made images or of their patches, (N, ...), any floating dtype.
        target: Any tensor (N, ...), such as the images: its images are counted, it is not looked at.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits).

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        Lim and Ye, Geometric GAN, 2017; CompVis/taming-transformers at 9944179a, taming/modules/losses/vqperceptual.py.
    """
    return -_sum_of_means(_values("generator_hinge", output, target))


def _values(loss: str, output: Tensor, target: Tensor) -> Tensor:
    check_output(loss, output, target)
    if output.ndim == 0 or target.ndim == 0 or output.shape[0] != target.shape[0]:
        raise ValueError(
            f"{loss}: output and target belong to the same images, found shapes {tuple(output.shape)} and "
            f"{tuple(target.shape)}. Give one row an image."
        )
    return output.to(working_dtype(output))


def _sum_of_means(values: Tensor) -> Tensor:
    """Over images: all have as many values."""
    return values.sum() / max(values[:1].numel(), 1)
