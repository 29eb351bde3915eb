"""One set of boxes from several runs of the network over copies of a picture: mirrored, rescaled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from headwise.coders.corners.decoding import Centers, Found, decode_batch, validate_boxes
from headwise.coders.corners.pairing import Pairing
from headwise.coders.corners.placement import Mirror, Placement, Size
from headwise.coders.published_soft_nms import published_soft_nms
from headwise.coders.soft_nms import Suppression, soft_nms
from headwise.whole import check_size, check_whole

FAR_OUTSIDE = 5.0  # pixels of the resized picture; CenterNet drops boxes that reach further out


@dataclass(frozen=True)
class Pass:
    """One run of the network over one or two copies of a picture.

    Args:
        outputs: The network's outputs for a batch that has one row per entry of ``mirrored``.
        placement: Where the picture lies in the input.
        mirrored: Which rows are mirror images, as `Placement.fill` makes them: ``(False, True)`` with both.
    """

    outputs: Mapping[str, Any]
    placement: Placement
    mirrored: Sequence[bool] = (False,)


def merge_passes(
    passes: Sequence[Pass],
    *,
    num_peaks: int = 100,
    num_detections: int = 1000,
    kernel_size: int = 3,
    embedding_threshold: float = 0.5,
    center: bool = False,
    mirror: Mirror = "edges",
    rule: Suppression | None = None,
    max_detections: int = 100,
    as_published: bool = False,
) -> Found:
    """Decode every pass, bring its boxes back to the picture, and suppress them together.

    CornerNet tests one scale with the mirror image, or scales 0.5, 0.75, 1, 1.25, 1.5 with
    ``Suppression(weight_exponent=10)``; CornerNet-Squeeze one scale without the mirror image, ``num_peaks=20,
    num_detections=100``; CenterNet as CornerNet, ``num_peaks=70, center=True``. Centers are those of scale 1.

    Args:
        passes: The runs, all of one picture.
        num_peaks: As of `decode_corners`, for each row of each pass; so the next four.
        num_detections: See there.
        kernel_size: See there.
        embedding_threshold: See there.
        center: Boxes remain where centers confirm them (CenterNet), unless they reach 5 pixels out of the picture.
        mirror: How columns of a mirror image are turned, see `Placement.mirror`. Networks that were trained with the
            authors' code want ``"centers"``; the authors' test itself uses ``"edges"``, one input pixel off.
        rule: How boxes of one class suppress one another; None: ``Suppression()``, or as published
            ``Suppression(plus_one=True)``.
        max_detections: Most boxes.
        as_published: Reproduce the authors' test: see `decode_corners`; rows that suppression dropped remain, merging
            weighs by the corners' scores of other rows, several boxes may share the last place, boxes without area
            stay, rescaling ignores rounded sizes, and CenterNet without a pass of scale 1 is an error.

    Returns:
        ``boxes`` (n, 4) in pixels of the picture, clipped to it, ``scores`` (n,), ``labels`` (n,), best first.

    Raises:
        ValueError: If there is no pass, passes are of different pictures, rows and ``mirrored`` differ in number, or
            `decode_corners` refuses outputs or options.

    Reference:
        princeton-vl/CornerNet-Lite at 6a54505d, core/test/cornernet.py; Duankaiwen/CenterNet at 3ad3a106, test/coco.py.

    Differs:
        All that ``as_published`` names. Without a pass of scale 1, centers are those of the scale nearest to it.
    """
    pairing = Pairing(num_peaks, num_detections, kernel_size, embedding_threshold, as_published=as_published)
    image_size = _check_passes(passes, mirror)
    check_whole("merge_passes", max_detections=max_detections)
    center_scale = _center_scale(passes, as_published) if center else math.nan
    parts = [
        (each.placement.scale == center_scale, _decode_pass(each, pairing, center=center, mirror=mirror))
        for each in passes
    ]
    found = {name: torch.cat([boxes[name] for _, (boxes, _) in parts]) for name in parts[0][1][0]}
    if center:
        chosen = [centers for asked, (_, centers) in parts if asked]
        found = validate_boxes(found, _join(chosen))
    return suppress_boxes(found, image_size, rule=rule, max_detections=max_detections, as_published=as_published)


def suppress_boxes(
    found: Found,
    image_size: Size | None,
    *,
    rule: Suppression | None = None,
    max_detections: int = 100,
    as_published: bool = False,
) -> Found:
    """Clip boxes to the picture, suppress them class by class, and keep the best.

    Args:
        found: ``boxes``, ``scores``, ``labels``, and where boxes are merged ``top_left_scores`` and
            ``bottom_right_scores``.
        image_size: Height and width of the picture; None: no clipping. Boxes that have no area then are dropped.
        rule: How boxes suppress one another; None: ``Suppression()``, or as published ``Suppression(plus_one=True)``.
        max_detections: Most boxes.
        as_published: Keep boxes without area, rows that suppression dropped, and all boxes that score as the last.

    Returns:
        ``boxes`` (n, 4), ``scores`` (n,), ``labels`` (n,) on the CPU, best first.

    Raises:
        ValueError: A box or a score is not finite, or an option is out of range.
    """
    check_whole("suppress_boxes", max_detections=max_detections)
    if image_size is not None:
        check_size("suppress_boxes", image_size=image_size)
    found = {name: values.cpu() for name, values in found.items()}
    corner_scores = None
    if rule is not None and rule.weight_exponent is not None:
        corner_scores = torch.stack([found["top_left_scores"], found["bottom_right_scores"]], 1)
    boxes, scores, labels = found["boxes"], found["scores"], found["labels"]
    if image_size is not None:
        boxes = clip_boxes(boxes, image_size)
    if as_published:
        return _published_rest(boxes, scores, labels, corner_scores, rule, max_detections)
    rows = (~(boxes[:, 2:] <= boxes[:, :2])).all(1).nonzero().flatten()  # what is no number is refused below
    if corner_scores is not None:
        corner_scores = corner_scores[rows]
    kept = soft_nms(boxes[rows], scores[rows], labels[rows], rule=rule, corner_scores=corner_scores)
    best = {"boxes": kept.boxes, "scores": kept.scores, "labels": labels[rows][kept.rows]}
    return {name: values[:max_detections] for name, values in best.items()}


def clip_boxes(boxes: Tensor, size: Size) -> Tensor:
    """Boxes (n, 4) cut to a picture of a height and a width."""
    return boxes.clamp(min=0).minimum(boxes.new_tensor([size[1], size[0]] * 2))


def _published_rest(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    corner_scores: Tensor | None,
    rule: Suppression | None,
    max_detections: int,
) -> Found:
    """The authors' suppression of each class, whose table is kept to its last row."""
    columns = [boxes, scores[:, None], *([] if corner_scores is None else [corner_scores])]
    rows = torch.cat(columns, 1)
    classes = sorted(set(labels.tolist()))
    tables = [published_soft_nms(rows[labels == label], rule)[0][:, :5] for label in classes]
    table = torch.cat([rows[:0, :5].float(), *tables])
    owners = [torch.full((len(each),), label) for each, label in zip(tables, classes, strict=True)]
    order = table[:, 4].argsort(descending=True, stable=True)
    ranked = table[order]
    if len(ranked) > max_detections:
        ranked = ranked[ranked[:, 4] >= ranked[max_detections - 1, 4]]
    kept = torch.cat([labels[:0], *owners])[order][: len(ranked)]
    return {"boxes": ranked[:, :4], "scores": ranked[:, 4], "labels": kept}


def _check_passes(passes: Sequence[Pass], mirror: str) -> Size:
    sizes = {each.placement.image_size for each in passes}
    if len(sizes) != 1:
        raise ValueError(f"merge_passes: passes must be of one picture, found pictures of {sorted(sizes) or 'none'}.")
    if mirror not in get_args(Mirror):
        raise ValueError(f"merge_passes: mirror must be one of {get_args(Mirror)}, found {mirror!r}.")
    return sizes.pop()


def _center_scale(passes: Sequence[Pass], as_published: bool) -> float:
    """The scale whose centers are asked."""
    scales = sorted({each.placement.scale for each in passes}, key=lambda scale: abs(math.log(scale)))
    if as_published and scales[0] != 1:
        raise ValueError(
            f"merge_passes: as published, centers come from scale 1, found scales {sorted(scales)}. Add a pass of "
            "scale 1, or leave as_published out."
        )
    return scales[0]


def _decode_pass(one: Pass, pairing: Pairing, *, center: bool, mirror: Mirror) -> tuple[Found, Centers]:
    """Boxes and centers of all rows in pixels of the picture."""
    decoded = decode_batch(one.outputs, one.placement.input_size, pairing, center=center)
    if len(decoded) != len(one.mirrored):
        raise ValueError(
            f"merge_passes: the outputs have {len(decoded)} rows, but mirrored has {len(one.mirrored)}. Pass one "
            "flag per row."
        )
    rows = [
        _unmirror(found, centers, one.placement, mirror) if flag else (found, centers)
        for flag, (found, centers) in zip(one.mirrored, decoded, strict=True)
    ]
    found = {name: torch.cat([each[name] for each, _ in rows]) for name in rows[0][0]}
    return _to_image(found, _join([centers for _, centers in rows]), one.placement, pairing.as_published, center)


def _unmirror(found: Found, centers: Centers, placement: Placement, mirror: Mirror) -> tuple[Found, Centers]:
    x1, y1, x2, y2 = found["boxes"].unbind(1)
    boxes = torch.stack([placement.mirror(x2, mirror), y1, placement.mirror(x1, mirror), y2], 1)
    x, y = centers.points.unbind(1)
    return found | {"boxes": boxes}, replace(centers, points=torch.stack([placement.mirror(x, mirror), y], 1))


def _to_image(
    found: Found, centers: Centers, placement: Placement, as_published: bool, center: bool
) -> tuple[Found, Centers]:
    height, width = placement.resized_size
    boxes = placement.to_resized(found["boxes"].reshape(-1, 2, 2))
    points = placement.to_resized(centers.points)
    limits = boxes.new_tensor([width, height])
    if center:
        near = ((boxes[:, 0] > -FAR_OUTSIDE) & (boxes[:, 1] < limits + FAR_OUTSIDE)).all(1)
        boxes, found = boxes[near], {name: values[near] for name, values in found.items()}
        points = points.clamp(min=0).minimum(limits)
    boxes = boxes.clamp(min=0).minimum(limits)
    boxes = placement.to_image(boxes, as_published=as_published).flatten(1)
    return found | {"boxes": boxes}, replace(centers, points=placement.to_image(points, as_published=as_published))


def _join(parts: Sequence[Centers]) -> Centers:
    return Centers(
        torch.cat([each.points for each in parts]),
        torch.cat([each.scores for each in parts]),
        torch.cat([each.labels for each in parts]),
    )
