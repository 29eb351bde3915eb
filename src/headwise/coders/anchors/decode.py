"""Logits and deltas of anchors -> boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from headwise.coders.anchors.deltas import UNIT, Weights, check_anchors, check_weights, decode_deltas
from headwise.coders.anchors.vision import box_ops
from headwise.whole import check_size, check_whole

Activation = Literal["sigmoid", "softmax"]


class _Candidates(NamedTuple):
    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def select(self, which: Tensor) -> _Candidates:
        return _Candidates(self.boxes[which], self.scores[which], self.labels[which])


@torch.no_grad()
def decode_boxes(
    outputs: Mapping[str, Any],
    anchors: Sequence[Tensor],
    *,
    activation: Activation = "sigmoid",
    weights: Weights = UNIT,
    image_size: tuple[int, int] | None = None,
    score_threshold: float = 0.05,
    num_candidates: int = 1000,
    nms_threshold: float = 0.5,
    num_detections: int = 100,
    class_agnostic: bool = False,
    plus_one: bool = False,
) -> list[dict[str, Tensor]]:
    """Decode the outputs of RetinaNet or SSD.

    Per level the `num_candidates` best pairs of anchor and class above `score_threshold` become boxes; then, in each
    class, of boxes that overlap by more than `nms_threshold` the best is kept.

    SSD: ``activation="softmax", weights=(10, 10, 5, 5)``.

    Args:
        outputs: ``{"levels": [{"logits": (N, A_l, C), "deltas": (N, A_l, 4)}, ...]}``; C + 1 logits, the background
            first, with "softmax".
        anchors: Per level (A_l, 4).
        activation: "sigmoid" of each class, or "softmax" over the background and the classes.
        weights: Of the deltas, as in `encode_boxes`.
        image_size: Height and width to which boxes are cut; what then has no area is left out. None: not cut.
        score_threshold: A score is greater than this.
        num_candidates: Most candidates a level.
        nms_threshold: Greatest intersection over union of two boxes of a class.
        num_detections: Most boxes an image.
        class_agnostic: As published by kuangliu: an anchor has its best class alone, and boxes of different classes
            suppress one another.
        plus_one: The overlap counts another pixel, ``x2 - x1 + 1``, as published.

    Returns:
        Per image ``{"boxes": (n, 4) x1, y1, x2, y2, "scores": (n,), "labels": (n,) int64 in 0..C-1}``, best first.

    Raises:
        ImportError: torchvision is missing.
        ValueError: The levels do not fit the anchors, hold a value that is not a number, or an option is out of its
            range.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4; kuangliu/pytorch-retinanet at 2d7c6633,
        encoder.py (``class_agnostic=True, plus_one=True, score_threshold=0.5``).

    Differs:
        The original fails where one box is found, and lets boxes of different classes suppress one another.
    """
    levels = _checked(outputs, anchors, activation, num_candidates, num_detections)
    _check_ranges(weights, image_size, score_threshold, nms_threshold)
    images = []
    for number in range(len(levels[0]["logits"])):
        parts = [
            _candidates(
                _scores(level["logits"][number], activation),
                level["deltas"][number],
                boxes.to(level["deltas"].device),
                weights,
                (score_threshold, num_candidates, class_agnostic),
            )
            for level, boxes in zip(levels, anchors, strict=True)
        ]
        found = _Candidates(*(torch.cat(each) for each in zip(*parts, strict=True)))
        if image_size is not None:
            found = _cut(found, image_size)
        kept = _suppress(found, nms_threshold, class_agnostic, plus_one)[:num_detections]
        images.append(found.select(kept)._asdict())
    return images


def _scores(logits: Tensor, activation: Activation) -> Tensor:
    """Scores (A, C) of the classes, without the background."""
    logits = logits.float() if logits.dtype != torch.float64 else logits
    return torch.sigmoid(logits) if activation == "sigmoid" else torch.softmax(logits, -1)[:, 1:]


def _candidates(
    scores: Tensor, deltas: Tensor, anchors: Tensor, weights: Weights, limits: tuple[float, int, bool]
) -> _Candidates:
    """The best pairs of anchor and class of one level, best first."""
    threshold, most, class_agnostic = limits
    if class_agnostic:
        best = scores.amax(-1, keepdim=True)
        first = scores.argmax(-1, keepdim=True)
        scores = torch.full_like(scores, -1.0).scatter(-1, first, best)
    flat = scores.flatten()
    above = (flat > threshold).nonzero().squeeze(1)
    top = flat[above].topk(min(most, len(above)))
    pairs = above[top.indices]
    num_classes = max(scores.shape[-1], 1)
    anchor = pairs // num_classes
    boxes = decode_deltas(deltas[anchor].to(scores.dtype), anchors[anchor], weights)
    return _Candidates(boxes, top.values, pairs % num_classes)


def _cut(found: _Candidates, image_size: tuple[int, int]) -> _Candidates:
    boxes = box_ops().clip_boxes_to_image(found.boxes, image_size)
    found = found._replace(boxes=boxes)
    return found.select((boxes[:, 2:] > boxes[:, :2]).all(1))


def _suppress(found: _Candidates, threshold: float, class_agnostic: bool, plus_one: bool) -> Tensor:
    """The numbers of the boxes that stay, best first."""
    boxes = found.boxes
    if plus_one:
        boxes = boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    classes = torch.zeros_like(found.labels) if class_agnostic else found.labels
    # Class by class: torchvision's batched_nms moves classes apart by as much as boxes reach beyond 0, so that boxes
    # below 0 meet those of the class before, and next to a far box's reach the others are rounded to nothing.
    stays = torch.zeros_like(classes, dtype=torch.bool)
    for each in set(classes.tolist()):
        rows = (classes == each).nonzero().squeeze(1)
        stays[rows[box_ops().nms(boxes[rows], found.scores[rows], threshold)]] = True
    kept = stays.nonzero().squeeze(1)
    return kept[found.scores[kept].argsort(descending=True, stable=True)]


def _check_ranges(
    weights: Weights, image_size: tuple[int, int] | None, score_threshold: float, nms_threshold: float
) -> None:
    check_weights("decode_boxes", weights)
    if image_size is not None:
        check_size("decode_boxes", image_size=image_size)
    if not (0 <= score_threshold <= 1 and 0 <= nms_threshold <= 1):
        raise ValueError(
            "decode_boxes: score_threshold and nms_threshold are in [0, 1], found "
            f"{score_threshold} and {nms_threshold}. RetinaNet has 0.05 and 0.5."
        )


def _checked(
    outputs: Mapping[str, Any], anchors: Sequence[Tensor], activation: str, num_candidates: int, num_detections: int
) -> Sequence[Mapping[str, Tensor]]:
    """The outputs' levels."""
    levels: Sequence[Mapping[str, Tensor]] = outputs.get("levels", ()) if isinstance(outputs, Mapping) else ()
    if activation not in get_args(Activation):
        raise ValueError(f"decode_boxes: activation is 'sigmoid' or 'softmax', found {activation!r}.")
    check_whole("decode_boxes", num_candidates=num_candidates, num_detections=num_detections)
    if not levels or len(levels) != len(anchors):
        raise ValueError(
            f"decode_boxes: one tensor of anchors a level is needed, found {len(levels)} levels and {len(anchors)} "
            "tensors of anchors. Use the anchors that the targets were encoded with."
        )
    check_anchors("decode_boxes", anchors)
    for number, (level, boxes) in enumerate(zip(levels, anchors, strict=True)):
        if lacking := {"logits", "deltas"} - set(level):
            raise ValueError(
                f"decode_boxes: level {number} lacks {', '.join(sorted(lacking))}; found {', '.join(map(str, level))}. "
                "Pass what the network returned."
            )
        logits, deltas = level["logits"], level["deltas"]
        if logits.shape[1:2] != boxes.shape[:1] or deltas.shape[1:] != boxes.shape:
            raise ValueError(
                f"decode_boxes: level {number} has {tuple(boxes.shape)} anchors, but logits {tuple(logits.shape)} and "
                f"deltas {tuple(deltas.shape)}. Make the anchors for this image size."
            )
        first = levels[0]["logits"].shape
        if logits.ndim != 3 or logits.shape[::2] != first[::2] or len(deltas) != len(logits):
            raise ValueError(
                f"decode_boxes: all levels are of the same images and classes, found logits {tuple(first)} in level 0, "
                f"and {tuple(logits.shape)} with deltas {tuple(deltas.shape)} in level {number}."
            )
    _check_finite(levels)
    return levels


def _check_finite(levels: Sequence[Mapping[str, Tensor]]) -> None:
    """Asks for numbers in all outputs; one wait for the device."""
    broken = {
        (name, number): (level[name].isnan() if name == "logits" else ~level[name].isfinite()).flatten(1).any(1)
        for number, level in enumerate(levels)
        for name in ("logits", "deltas")
    }
    flags = torch.stack(list(broken.values())).tolist()
    for (name, number), images in zip(broken, flags, strict=True):
        if any(images):
            raise ValueError(
                f"decode_boxes: {name} of level {number}, image {images.index(True)} hold a value that is not a "
                "number. The network has diverged, or overflowed in half precision."
            )
