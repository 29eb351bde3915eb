"""Boxes -> labels and deltas of anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headwise.coders.anchors.deltas import UNIT, Weights, check_anchors, check_weights, encode_deltas
from headwise.coders.anchors.matching import IGNORED, Forced, check_rule, match
from headwise.coders.anchors.vision import box_ops
from headwise.whole import check_whole

Targets = dict[str, list[dict[str, Tensor]]]


def encode_boxes(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    anchors: Sequence[Tensor],
    *,
    ignored: Sequence[Tensor] | None = None,
    foreground: float = 0.5,
    background: float = 0.4,
    forced: Forced = "ties",
    weights: Weights = UNIT,
    ignored_overlap: float = 0.5,
    plus_one: bool = False,
    num_classes: int | None = None,
) -> Targets:
    """Encode the boxes of images as targets of RetinaNet or SSD.

    An anchor belongs to the box it overlaps most if their intersection over union is `foreground` or more, is
    background if it is less than `background`, and is ignored between; what boxes without an anchor get is `forced`.
    An anchor that belongs to no box and that an ignored box covers by `ignored_overlap` of its area is ignored. An
    image without boxes is all background.

    SSD: ``background=0.5, forced="best", weights=(10, 10, 5, 5)``.

    Args:
        boxes: Per image (n, 4) x1, y1, x2, y2, pixels of the network's input, tensors or arrays; n may be 0.
        labels: Per image (n,) integer, 0..C-1.
        anchors: Per level (A_l, 4).
        ignored: Per image (n,) bool, True for boxes that are no objects and no background either (crowds); None: none.
        foreground: Least overlap of an object's anchor.
        background: Overlap below which an anchor is background, at most `foreground`.
        forced: "ties": each box's anchors of its highest overlap belong to their own best box, as in torchvision's
            RetinaNet; "best": the first of them belongs to this box, as in SSD; "none": nothing, so a small or thin
            box may train nothing.
        weights: Of the deltas; RetinaNet 1, SSD (10, 10, 5, 5).
        ignored_overlap: Least share of an anchor's area covered by an ignored box, in (0, 1].
        plus_one: The conventions of the RetinaNet whose losses `presets.retinanet(as_published=True)` has: widths are
            ``x2 - x1 + 1``, overlaps count another pixel, and an overlap of exactly `background` is background. Set
            ``forced="none"`` too.
        num_classes: C, for a label beyond it to be refused here and not to train another anchor's class; None: any
            label.

    Returns:
        ``{"levels": [{"label": (N, A_l) int64: -1 ignored, 0 background, 1..C, "deltas": (N, A_l, 4) float32}, ...]}``,
        on the anchors' device. Deltas are those of the best box, 0 in an image without boxes and, with
        "best", where an anchor meets none.

    Raises:
        ImportError: torchvision is missing.
        ValueError: A shape or an option does not fit, or a box or an anchor has no area.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4; kuangliu/pytorch-retinanet at 2d7c6633,
        encoder.py (``plus_one=True, forced="none"``); torchvision 0.29, models/detection/_utils.py, Matcher and
        SSDMatcher.

    Differs:
        The original fails on an image without boxes, and gives boxes of 20 pixels and less no anchor. torchvision's
        Matcher gives a box that overlaps no anchor all of them.
    """
    check_anchors("encode_boxes", anchors)
    _check_options(foreground, background, forced, ignored_overlap)
    check_weights("encode_boxes", weights)
    if not len(boxes) == len(labels) == (len(boxes) if ignored is None else len(ignored)):
        raise ValueError(
            f"encode_boxes: boxes, labels and ignored have one entry an image, found {len(boxes)}, {len(labels)}"
            f"{'' if ignored is None else f' and {len(ignored)}'}. Put each image's in a list."
        )
    every = torch.cat([level.float() for level in anchors])
    options = {"foreground": foreground, "background": background, "forced": forced}
    images = []
    for number, (each, names) in enumerate(zip(boxes, labels, strict=True)):
        crowd = None if ignored is None else torch.as_tensor(ignored[number])
        # Of lists, torch would round the numbers to its default dtype.
        table = torch.as_tensor(each, dtype=None if hasattr(each, "dtype") else torch.float32).to(every)
        here = _checked(number, table, torch.as_tensor(names).to(every.device), crowd, num_classes)
        images.append(_encode_image(*here, every, weights, ignored_overlap, plus_one, options))
    sizes = [len(level) for level in anchors]
    label = torch.stack([label for label, _ in images]) if images else torch.zeros(0, len(every), dtype=torch.long)
    deltas = torch.stack([deltas for _, deltas in images]) if images else every.new_zeros(0, len(every), 4)
    rows = zip(torch.split(label, sizes, 1), torch.split(deltas, sizes, 1), strict=True)
    return {"levels": [{"label": part, "deltas": moved} for part, moved in rows]}


def _encode_image(
    boxes: Tensor,
    labels: Tensor,
    ignored: Tensor,
    anchors: Tensor,
    weights: Weights,
    ignored_overlap: float,
    plus_one: bool,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """The label (A,) and the deltas (A, 4) of all anchors."""
    crowds, boxes, labels = boxes[ignored], boxes[~ignored], labels[~ignored]
    if plus_one:
        half = boxes.new_tensor([-0.5, -0.5, 0.5, 0.5])
        boxes, pixel = boxes + half, half.clamp(min=0) * 2
        overlap = box_ops().box_iou(boxes + pixel, anchors + pixel)
    else:
        overlap = box_ops().box_iou(boxes, anchors)
    matched = match(overlap, keep_at_background=not plus_one, **options)
    if len(crowds):
        covered = _covered(anchors, crowds) >= ignored_overlap
        matched = torch.where(covered & (matched < 0), IGNORED, matched)
    if not len(boxes):
        return (matched == IGNORED).long().neg(), torch.zeros_like(anchors)
    label = torch.where(matched >= 0, labels[matched.clamp(min=0)].long() + 1, (matched == IGNORED).long().neg())
    most, best = overlap.max(0)
    owner = torch.where(matched >= 0, matched, best)
    deltas = encode_deltas(boxes[owner], anchors, weights)
    if options["forced"] == "best":
        deltas = torch.where(((matched >= 0) | (most > 0)).unsqueeze(1), deltas, 0.0)
    return label, deltas


def _covered(anchors: Tensor, regions: Tensor) -> Tensor:
    """The greatest share of each anchor's area that one region covers, (A,)."""
    least = torch.maximum(anchors[:, None, :2], regions[None, :, :2])
    most = torch.minimum(anchors[:, None, 2:], regions[None, :, 2:])
    shared = (most - least).clamp(min=0).prod(-1).amax(1)
    return shared / (anchors[:, 2:] - anchors[:, :2]).prod(-1)


def _checked(
    number: int, boxes: Tensor, labels: Tensor, ignored: Tensor | None, num_classes: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """An image's boxes (n, 4), labels (n,) and what is ignored (n,) bool."""
    boxes = boxes.reshape(-1, 4) if boxes.numel() == 0 else boxes
    crowd = torch.zeros(len(boxes), dtype=torch.bool) if ignored is None else ignored
    if boxes.shape[1:] != (4,) or labels.shape != boxes.shape[:1] or crowd.shape != boxes.shape[:1]:
        raise ValueError(
            f"encode_boxes: image {number} needs boxes (n, 4), labels (n,) and ignored (n,), found "
            f"{tuple(boxes.shape)}, {tuple(labels.shape)} and {tuple(crowd.shape)}. Give one of each a box."
        )
    # Lists of nothing are read as floats.
    if len(boxes) and (labels.is_floating_point() or labels.dtype == torch.bool or crowd.dtype != torch.bool):
        raise ValueError(
            f"encode_boxes: image {number} needs integer labels and bool ignored, found {labels.dtype} and "
            f"{crowd.dtype}. Convert them."
        )
    labels, crowd = labels.long(), crowd.bool()
    if num_classes is not None:
        check_whole("encode_boxes", num_classes=num_classes)
    if num_classes is not None and bool((labels >= num_classes).any()):
        box = int((labels >= num_classes).nonzero()[0])
        raise ValueError(
            f"encode_boxes: box {box} of image {number} has the label {int(labels[box])}, but labels are "
            f"0..{num_classes - 1}. COCO's category ids have gaps: map them to consecutive numbers."
        )
    bad = ~((boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1) & (labels >= 0))
    if bad.any():
        box = int(bad.nonzero()[0])
        raise ValueError(
            f"encode_boxes: box {box} of image {number} is {boxes[box].tolist()} with label {int(labels[box])}, but "
            "x1, y1, x2, y2 must be finite with x2 > x1 and y2 > y1, and labels begin at 0. Correct or remove it."
        )
    return boxes, labels, crowd.to(boxes.device)


def _check_options(foreground: float, background: float, forced: str, ignored_overlap: float) -> None:
    check_rule("encode_boxes", foreground, background, forced)
    if not 0 < ignored_overlap <= 1:
        raise ValueError(
            f"encode_boxes: ignored_overlap is a share of an anchor's area, in (0, 1], found {ignored_overlap}. The "
            "default is 0.5."
        )
