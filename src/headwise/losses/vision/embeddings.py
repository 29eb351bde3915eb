"""Associative embedding: the two corners of an object are pulled together, objects of an image pushed apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.parts.checks import check_output
from headwise.losses.vision.gathered import at_objects, check_index
from headwise.masks import as_mask

# What the authors add to every count.
_EPSILON = 1e-4


@declared(count=normalizers.images)
def pull(left: Tensor, right: Tensor, left_index: Tensor, right_index: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum over images of the mean over an image's objects of the variance of both corners' embeddings.

    With a, b an object's embeddings and m their mean: ``(a - m)^2 + (b - m)^2 = (a - b)^2 / 2``. The mean over objects
    is formed within each image, so that what is left is a sum over images; divide it by `normalizers.images`.

    Args:
        left: Embeddings of one corner, (N, 1, H, W), any floating dtype.
        right: Embeddings of the other, (N, 1, H, W).
        left_index: Where the objects' first corners are, (N, K), integer, ``y * W + x``.
        right_index: Where their other corners are, (N, K).
        mask: Which of the K slots hold an object, (N, K), any dtype (positive holds); None: all.

    Returns:
        The sum, 0-d, float32 (float64 for float64 embeddings); an image without objects adds 0.

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        Law and Deng, CornerNet, ECCV 2018, equation 4; princeton-vl/CornerNet-Lite at 6a54505d,
        core/models/py_utils/losses.py.

    Differs:
        Theirs adds 1e-4 to the counts and divides by no number of images, see `published_pull`.
    """
    first, second, keep = _embeddings("pull", left, right, left_index, right_index, mask)
    num_objects = keep.sum(1).to(first.dtype)
    return (_variances(first, second) / num_objects.clamp(min=1)).sum()


@declared(count=normalizers.images)
def push(
    left: Tensor,
    right: Tensor,
    left_index: Tensor,
    right_index: Tensor,
    mask: Tensor | None = None,
    *,
    margin: float = 1.0,
) -> Tensor:
    """Sum over images of the mean over an image's pairs of objects of how much they are too near.

    With m the mean of an object's two embeddings: ``relu(margin - |m_j - m_k|)``, averaged over the ``n (n - 1)``
    ordered pairs of two objects. The mean over pairs is formed within each image, so that what is left is a sum
    over images; divide it by `normalizers.images`.

    Args:
        left: As in `pull`.
        right: As in `pull`.
        left_index: As in `pull`.
        right_index: As in `pull`.
        mask: As in `pull`.
        margin: How far apart two objects are pushed, > 0, in units of the embeddings.

    Returns:
        The sum, 0-d, float32 (float64 for float64 embeddings); an image of fewer than two objects adds 0.

    Raises:
        ValueError: If a dtype, a shape or ``margin`` does not fit.

    Reference:
        Law and Deng, CornerNet, ECCV 2018, equation 5 (margin = 1); princeton-vl/CornerNet-Lite at 6a54505d,
        core/models/py_utils/losses.py.

    Differs:
        An object makes no pair with itself; theirs counts it and takes most of it off again, see `published_push`.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"push: margin must be positive and finite, found {margin}. The paper has 1.")
    first, second, keep = _embeddings("push", left, right, left_index, right_index, mask)
    same = torch.eye(keep.shape[1], dtype=torch.bool, device=keep.device)
    nearness = torch.where(_pairs(keep) & ~same, torch.relu(margin - _distances(first, second)), 0.0)
    num_objects = keep.sum(1)
    num_pairs = (num_objects * (num_objects - 1)).clamp(min=1).to(first.dtype)
    return (nearness.sum((1, 2)) / num_pairs).sum()


@declared(count=normalizers.published_chunks)
def published_pull(
    left: Tensor, right: Tensor, left_index: Tensor, right_index: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`pull` with 1e-4 added to each image's count of objects; the authors divide its sum over images by nothing.

    Args:
        left: As in `pull`.
        right: As in `pull`.
        left_index: As in `pull`.
        right_index: As in `pull`.
        mask: As in `pull`.

    Returns:
        The sum, 0-d, float32 (float64 for float64 embeddings).

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        princeton-vl/CornerNet-Lite at 6a54505d, core/models/py_utils/losses.py.
    """
    first, second, keep = _embeddings("published_pull", left, right, left_index, right_index, mask)
    return (_variances(first, second) / (keep.sum(1).to(first.dtype) + _EPSILON)).sum()


@declared(count=normalizers.published_chunks)
def published_push(
    left: Tensor, right: Tensor, left_index: Tensor, right_index: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`push` with the pairs of an object and itself, which ``1 / (n + 1e-4)`` off every pair all but makes up for.

    Per image of n objects: ``sum over pairs of (relu(1 - |m_j - m_k|) - 1 / (n + 1e-4)) / (n (n - 1) + 1e-4)``.
    For a single object numerator and denominator are both about 1e-4, so that it costs 0.9999, without a gradient.

    Args:
        left: As in `pull`.
        right: As in `pull`.
        left_index: As in `pull`.
        right_index: As in `pull`.
        mask: As in `pull`.

    Returns:
        The sum, 0-d, float32 (float64 for float64 embeddings).

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        princeton-vl/CornerNet-Lite at 6a54505d, core/models/py_utils/losses.py.
    """
    first, second, keep = _embeddings("published_push", left, right, left_index, right_index, mask)
    num_objects = keep.sum(1).to(first.dtype)
    excess = torch.relu(1 - _distances(first, second)) - 1 / (num_objects + _EPSILON)[:, None, None]
    per_image = torch.where(_pairs(keep), excess, 0.0).sum((1, 2))
    return (per_image / (num_objects * (num_objects - 1) + _EPSILON)).sum()


def _embeddings(
    loss: str, left: Tensor, right: Tensor, left_index: Tensor, right_index: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Both corners' embeddings, (N, K), 0 where there is no object, and where there is one."""
    for output, index in ((left, left_index), (right, right_index)):
        check_output(loss, output, mask)
        check_index(loss, output, index, mask)
        if output.shape[1] != 1:
            raise ValueError(
                f"{loss}: an embedding is one number a pixel, (N, 1, H, W), found {tuple(output.shape)}. Slice one "
                "channel."
            )
    if left.shape != right.shape:
        raise ValueError(
            f"{loss}: both corners' embeddings are maps of one size, found {tuple(left.shape)} and "
            f"{tuple(right.shape)}. Pass both of one stack, whole."
        )
    if left_index.shape != right_index.shape:
        raise ValueError(
            f"{loss}: both corners belong to the same objects, found indices of shapes {tuple(left_index.shape)} and "
            f"{tuple(right_index.shape)}. Give each object a slot in both."
        )
    keep = torch.ones_like(left_index, dtype=torch.bool) if mask is None else as_mask(mask)
    first, second = at_objects(left, left_index, keep).squeeze(2), at_objects(right, right_index, keep).squeeze(2)
    return first, second, keep


def _variances(first: Tensor, second: Tensor) -> Tensor:
    """Per image the sum of squared distances of both embeddings from their mean; (N,)."""
    return (first - second).square().sum(1) / 2


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """Between all objects of an image, (N, K, K)."""
    means = (first + second) / 2
    return (means.unsqueeze(2) - means.unsqueeze(1)).abs()


def _pairs(keep: Tensor) -> Tensor:
    """Where both of a pair are objects, (N, K, K)."""
    return keep.unsqueeze(2) & keep.unsqueeze(1)
