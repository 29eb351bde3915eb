"""Boxes from the outputs of CornerNet, CornerNet-Squeeze and CenterNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headwise.coders.corners.pairing import Pairing, Pairs, Points, pair, read_points
from headwise.whole import check_size

Found = dict[str, Tensor]

LARGE_AREA = 22500.0  # pixels of the picture; larger boxes have a smaller central region


@dataclass(frozen=True)
class Centers:
    """Peaks of the center map of one picture, best first: ``points`` (m, 2) x, y, ``scores`` and ``labels`` (m,)."""

    points: Tensor
    scores: Tensor
    labels: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Centers:
        """No centers, on the device and in the dtype of a tensor."""
        return cls(like.new_zeros(0, 2), like.new_zeros(0), torch.zeros(0, dtype=torch.long, device=like.device))


def decode_corners(
    outputs: Mapping[str, Any],
    *,
    image_size: tuple[int, int] | None = None,
    num_peaks: int = 100,
    num_detections: int = 1000,
    kernel_size: int = 3,
    embedding_threshold: float = 0.5,
    center: bool = False,
    no_border: bool = False,
    as_published: bool = False,
) -> list[Found]:
    """Join the highest peaks of both corner maps to boxes.

    All pairs of a top-left and a bottom-right corner of one class are boxes, whose embeddings differ by at most
    ``embedding_threshold`` and whose sides are not negative; a box scores the mean of its corners. With ``center``, a
    box remains if a peak of the center map of its class lies in its central region, see `validate_boxes`.

    Nothing is suppressed: `suppress_boxes` does that, and `merge_passes` joins mirrored and rescaled copies.

    Args:
        outputs: The network's outputs, whose last stack is read, or one stack: logits of heat maps (N, C, H, W),
            embeddings (N, 1, H, W), offsets (N, 2, H, W) in pixels of the grid.
        image_size: Height and width of the network's input in pixels; None: boxes are in cells of the grid.
        num_peaks: Corners of each kind, and centers, in an image.
        num_detections: Most boxes of an image (before the centers are asked).
        kernel_size: Side of the neighborhood whose highest pixel is a peak, odd.
        embedding_threshold: Most distance of two embeddings.
        center: Ask the center map too (CenterNet).
        no_border: Leave out top-left corners in the first row or column, and bottom-right ones in the last.
        as_published: Every pixel of a plateau is a peak, classes of large maps are miscounted, more peaks than pixels
            are an error.

    Returns:
        Per image, best first: ``boxes`` (n, 4) in pixels of the input, ``scores`` (n,), ``labels`` (n,) int64, and of
        both corners ``top_left_scores``, ``bottom_right_scores``, ``top_left_embeddings`` and
        ``bottom_right_embeddings`` (n,).

    Raises:
        ValueError: If a map lacks or has another shape, holds NaN where it was read, or an option is out of range.

    Reference:
        Law and Deng, CornerNet, ECCV 2018, section 3; princeton-vl/CornerNet-Lite at 6a54505d,
        core/models/py_utils/utils.py, ``_decode``; Duankaiwen/CenterNet at 3ad3a106, models/py_utils/kp_utils.py.

    Differs:
        A plateau has one peak, classes are counted exactly, fewer peaks than asked for are no error, and a pixel that
        is no peak is no corner of score 0.
    """
    pairing = Pairing(num_peaks, num_detections, kernel_size, embedding_threshold, no_border, as_published)
    decoded = decode_batch(outputs, image_size, pairing, center=center)
    if not center:
        return [found for found, _ in decoded]
    return [validate_boxes(found, centers) for found, centers in decoded]


@torch.no_grad()
def decode_batch(
    outputs: Mapping[str, Any], image_size: tuple[int, int] | None, pairing: Pairing, *, center: bool = False
) -> list[tuple[Found, Centers]]:
    """Boxes and centers of each image in pixels of the input, before centers validate boxes.

    Args:
        outputs: As of `decode_corners`.
        image_size: Height and width of the network's input in pixels; None for those of the grid.
        pairing: How corners are found and joined.
        center: Read centers too; otherwise they are empty.

    Returns:
        Per image what `decode_corners` returns, and the centers.

    Raises:
        ValueError: As of `decode_corners`.
    """
    if image_size is not None:
        check_size("decode_corners", image_size=image_size)
    kinds = ["top_left", "bottom_right", *(["center"] if center else [])]
    stack = last_stack(outputs, kinds)
    grid = stack["top_left_heatmap"].shape[-2:]
    points = {kind: read_points(stack, kind, pairing) for kind in kinds}
    _check_finite(stack, points)
    boxes = pair(points["top_left"], points["bottom_right"], pairing)
    height, width = grid if image_size is None else image_size
    stride = boxes.boxes.new_tensor([width / grid[1], height / grid[0]])
    found = [_image_of(boxes, image, count, stride) for image, count in enumerate(_counts(boxes.scores))]
    if not center:
        return [(each, Centers.none(boxes.boxes)) for each in found]
    counts = _counts(points["center"].scores)
    return [(each, _centers_of(points["center"], image, counts[image], stride)) for image, each in enumerate(found)]


def validate_boxes(found: Found, centers: Centers) -> Found:
    """Keep the boxes that have a center of their class strictly inside their central region.

    The region is the middle third of a box up to 22500 square pixels, the middle fifth of a larger one. The first such
    center s_c gives the box the score (2 s + s_c) / 3.

    Args:
        found: ``boxes`` (n, 4), ``scores`` and ``labels`` (n,), and whatever else has a row per box.
        centers: Centers in the same pixels, in the order in which they are asked.

    Returns:
        The rows of ``found`` that remain, with new scores, best first; ``center_scores`` are those of their centers.

    Reference:
        Duan et al., CenterNet: Keypoint Triplets for Object Detection, ICCV 2019, equation 1; Duankaiwen/CenterNet at
        3ad3a106, test/coco.py.
    """
    left_top, right_bottom = found["boxes"][:, :2], found["boxes"][:, 2:]
    large = (right_bottom - left_top).prod(1) > LARGE_AREA
    parts = torch.where(large, 5.0, 3.0).to(left_top)[:, None]
    before = (parts - 1) / 2
    low = ((parts - before) * left_top + before * right_bottom) / parts
    high = (before * left_top + (parts - before) * right_bottom) / parts
    inside = ((centers.points[:, None] > low) & (centers.points[:, None] < high)).all(-1)
    inside &= centers.labels[:, None] == found["labels"]
    if not len(inside):
        return {name: values[:0] for name, values in found.items()} | {"center_scores": found["scores"][:0]}
    confirmed = inside.any(0).nonzero().flatten()
    center_scores = centers.scores[inside.to(torch.uint8).argmax(0)[confirmed]]
    scores = (2 * found["scores"][confirmed] + center_scores) / 3
    order = scores.argsort(descending=True, stable=True)
    rows = confirmed[order]
    kept = {name: values[rows] for name, values in found.items()}
    return kept | {"scores": scores[order], "center_scores": center_scores[order]}


def last_stack(outputs: Mapping[str, Any], kinds: Sequence[str]) -> Mapping[str, Any]:
    """The maps that are decoded, their shapes checked.

    Args:
        outputs: ``{"stacks": [...]}``, or one stack.
        kinds: Points that are read: ``top_left``, ``bottom_right``, ``center``.

    Returns:
        The last stack.

    Raises:
        ValueError: If a map lacks, or has another dtype or shape.
    """
    if not isinstance(outputs, Mapping) or ("stacks" in outputs and not len(outputs["stacks"])):
        raise ValueError(
            f"decode_corners: the outputs are {{'stacks': [maps, ...]}} or the maps of one stack by their names, found "
            f"{'no stack' if isinstance(outputs, Mapping) else type(outputs).__name__}. Pass what the network returned."
        )
    stack: Mapping[str, Any] = outputs["stacks"][-1] if "stacks" in outputs else outputs
    embedded = [kind for kind in kinds if kind != "center"]
    channels: dict[str, int | None] = {f"{kind}_heatmap": None for kind in kinds}
    channels |= {f"{kind}_embedding": 1 for kind in embedded} | {f"{kind}_offset": 2 for kind in kinds}
    lacking = [name for name in channels if name not in stack]
    if lacking:
        raise ValueError(
            f"decode_corners: the outputs lack {', '.join(lacking)}; found {', '.join(stack)}. Pass what the network "
            "returned, and center=True only for CenterNet."
        )
    shape = stack["top_left_heatmap"].shape
    for name, expected in channels.items():
        maps = stack[name]
        wanted = (*shape[:1], shape[1] if expected is None else expected, *shape[2:]) if len(shape) == 4 else ()
        if not maps.is_floating_point() or tuple(maps.shape) != wanted:
            raise ValueError(
                f"decode_corners: {name} must be floating of shape "
                f"{wanted or '(N, C, H, W)'}, found {maps.dtype} {tuple(maps.shape)}."
            )
    return stack


def _check_finite(stack: Mapping[str, Tensor], points: Mapping[str, Points]) -> None:
    """Asks for heat maps without NaN, and for numbers wherever a peak was read; one wait for the device."""
    broken = {}
    for kind, each in points.items():
        heatmap, read = stack[f"{kind}_heatmap"], each.scores >= 0
        broken[f"{kind}_heatmap"] = heatmap.flatten(1).amax(1).isnan() if heatmap.numel() else read.any(1)
        broken[f"{kind}_offset"] = (read & ~each.points.isfinite().all(-1)).any(1)
        broken[f"{kind}_embedding"] = (read & ~each.embeddings.isfinite()).any(1)
    flags = torch.stack(list(broken.values())).tolist()
    for name, images in zip(broken, flags, strict=True):
        if any(images):
            raise ValueError(
                f"decode_corners: {name} of image {images.index(True)} holds a value that is not a number. The network "
                "has diverged, or overflowed in half precision."
            )


def _counts(scores: Tensor) -> list[int]:
    counts: list[int] = (scores >= 0).sum(1).tolist()
    return counts


def _image_of(pairs: Pairs, image: int, count: int, stride: Tensor) -> Found:
    corner_scores, embeddings = pairs.corner_scores[image, :count], pairs.embeddings[image, :count]
    return {
        "boxes": pairs.boxes[image, :count] * stride.repeat(2),
        "scores": pairs.scores[image, :count],
        "labels": pairs.labels[image, :count],
        "top_left_scores": corner_scores[:, 0],
        "bottom_right_scores": corner_scores[:, 1],
        "top_left_embeddings": embeddings[:, 0],
        "bottom_right_embeddings": embeddings[:, 1],
    }


def _centers_of(points: Points, image: int, count: int, stride: Tensor) -> Centers:
    return Centers(points.points[image, :count] * stride, points.scores[image, :count], points.labels[image, :count])
