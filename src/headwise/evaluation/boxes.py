"""How well objects were found: COCO's twelve numbers, and average precision per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headwise.require import require

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from headwise.data import BoxAnnotation
    from headwise.data.detections import Detections

    Array = npt.NDArray[np.float64]

Score = dict[str, float]
Entry = dict[str, Any]

_AREAS = ("all", "small", "medium", "large")
_MOST = (1, 10, 100)


def evaluate_boxes(
    found: Sequence[Mapping[str, Any]], known: Sequence[BoxAnnotation], class_names: Sequence[str]
) -> dict[str, Any]:
    """Score detected boxes against annotated ones by COCO's rules, over all images together.

    Per class and IoU threshold t (0.50 to 0.95 by 0.05) detections take, best score first, the free object of
    largest IoU, if it is at least t. Average precision is the mean over 101 recalls of the largest precision
    at that recall or beyond. A detection that takes an ignored region (IoU there: intersection over the
    detection's own area; any number may take it) counts neither way. The 100 best of an image and class are
    judged. Small is an area below 32^2, large above 96^2, medium between. Nothing is rounded.

    Args:
        found: per image ``boxes`` (n, 4) in pixel edges, ``scores`` (n,) and ``labels`` (n,) in 0..C-1, as
            arrays or tensors.
        known: the annotation of each image, on the same pixels. Objects are sorted by their ``areas``, where
            they have some, else by their boxes' areas.
        class_names: of the C labels.

    Returns:
        ``coco``: ``ap`` (mean over classes and thresholds), ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``,
        ``ap_large``, and average recall with at most 1, 10, 100 detections per image and class ``ar1``,
        ``ar10``, ``ar100``, ``ar_small``, ``ar_medium``, ``ar_large``; ``per_class``: name -> ``ap``, ``ap50``,
        ``ap75``, ``ar100``. In [0, 1]; NaN where there is no object to find (COCO prints -1).

    Raises:
        ValueError: no images, lists of different length, detections of other shapes, a value that is not finite, a
            box of negative width or height, a label without class, or two classes of one name.
        ImportError: faster-coco-eval is missing.

    Reference:
        Lin et al., "Microsoft COCO", ECCV 2014; cocodataset/cocoapi at 8c9bcc3c, PythonAPI/pycocotools/cocoeval.py.
    """
    import numpy as np

    detections = _checked(found, known, class_names)
    annotations = [
        (one.boxes.astype(np.float64), one.labels, {"iscrowd": one.ignored.astype(int), "area": _areas(one)})
        for one in known
    ]
    precision, recall = _accumulate(
        _dataset(annotations, len(class_names)),
        _dataset(
            [(boxes, labels, {"score": scores, "area": _box_areas(boxes)}) for boxes, scores, labels in detections],
            len(class_names),
        ),
    )
    return {
        "coco": _summary(precision, recall),
        "per_class": {
            name: {
                "ap": _mean(precision[:, :, label, 0, -1]),
                "ap50": _mean(precision[0, :, label, 0, -1]),
                "ap75": _mean(precision[5, :, label, 0, -1]),
                "ar100": _mean(recall[:, label, 0, -1]),
            }
            for label, name in enumerate(class_names)
        },
    }


def _summary(precision: Array, recall: Array) -> Score:
    """Name COCO's twelve numbers.

    Args:
        precision: (T thresholds, R recalls, C, 4 ranges of area, 3 numbers of detections), -1 without object.
        recall: (T, C, 4, 3).

    Returns:
        The numbers.
    """
    score = {
        "ap": _mean(precision[:, :, :, 0, -1]),
        "ap50": _mean(precision[0, :, :, 0, -1]),
        "ap75": _mean(precision[5, :, :, 0, -1]),
    }
    score |= {f"ap_{name}": _mean(precision[:, :, :, area, -1]) for area, name in enumerate(_AREAS) if area}
    score |= {f"ar{most}": _mean(recall[:, :, 0, index]) for index, most in enumerate(_MOST)}
    return score | {f"ar_{name}": _mean(recall[:, :, area, -1]) for area, name in enumerate(_AREAS) if area}


def _mean(values: Array) -> float:
    """Return the mean over what has objects, NaN where nothing has."""
    judged = values[values > -1]
    return float(judged.mean()) if len(judged) else float("nan")


def _accumulate(known: Entry, found: Entry) -> tuple[Array, Array]:
    """Match and accumulate; the evaluator's own printing goes to its logger."""
    require("evaluate_boxes", "train", "faster_coco_eval", "numpy")
    import numpy as np
    from faster_coco_eval import COCO, COCOeval_faster

    evaluation = COCOeval_faster(COCO(known), COCO(found), "bbox")
    evaluation.params.maxDets = list(_MOST)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _dataset(images: Sequence[tuple[Array, Any, Mapping[str, Any]]], num_classes: int) -> Entry:
    """Lay boxes, labels and what else there is per box out as a COCO data set; its numbers begin at 1."""
    annotations: list[Entry] = []
    for image, (boxes, labels, others) in enumerate(images, start=1):
        sides = boxes[:, 2:] - boxes[:, :2]
        for index, (x, y, width, height) in enumerate(zip(*boxes[:, :2].T, *sides.T, strict=True)):
            entry: Entry = {"id": len(annotations) + 1, "image_id": image, "category_id": int(labels[index]) + 1}
            entry["bbox"] = [float(x), float(y), float(width), float(height)]
            annotations.append(entry | {name: values[index].item() for name, values in others.items()})
    return {
        "images": [{"id": image} for image in range(1, len(images) + 1)],
        "annotations": annotations,
        "categories": [{"id": label} for label in range(1, num_classes + 1)],
    }


def _areas(annotation: BoxAnnotation) -> Array:
    import numpy as np

    return _box_areas(annotation.boxes.astype(np.float64)) if annotation.areas is None else annotation.areas


def _box_areas(boxes: Array) -> Array:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _checked(
    found: Sequence[Mapping[str, Any]], known: Sequence[BoxAnnotation], class_names: Sequence[str]
) -> list[Detections]:
    """Return boxes, scores and labels of each image as arrays."""
    from headwise.data.detections import Detections

    if len(found) != len(known) or not known:
        raise ValueError(
            f"evaluate_boxes: {len(found)} images of detections, {len(known)} of annotations. Give one entry per "
            "image in both, for one image at least."
        )
    if len(set(class_names)) < len(class_names):
        twice = next(name for name in class_names if list(class_names).count(name) > 1)
        raise ValueError(f"evaluate_boxes: two classes have the name {twice!r}. Give each class its own.")
    detections = [Detections.of(one, f"evaluate_boxes: detections of image {image}") for image, one in enumerate(found)]
    for image, each in enumerate(detections):
        _check_labels(f"detections of image {image}", each.labels, len(class_names))
    for image, one in enumerate(known):
        _check_labels(f"annotation of image {image}", one.labels, len(class_names))
    return detections


def _check_labels(what: str, labels: Any, num_classes: int) -> None:
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"evaluate_boxes: {what} have labels from {labels.min()} to {labels.max()}, but there are {num_classes} "
            "classes. Give the names of all."
        )
