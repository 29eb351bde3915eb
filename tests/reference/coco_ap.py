"""COCO's average precision and recall, written slowly from its rules, in float64."""

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
RANGES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


def overlap(found, known, crowd):
    """Intersection over union; over the detection's own area where the object is a crowd."""
    width = min(found[2], known[2]) - max(found[0], known[0])
    height = min(found[3], known[3]) - max(found[1], known[1])
    shared = max(width, 0.0) * max(height, 0.0)
    own = (found[2] - found[0]) * (found[3] - found[1])
    other = (known[2] - known[0]) * (known[3] - known[1])
    whole = own if crowd else own + other - shared
    return shared / whole if whole > 0 else 0.0


def match(boxes, objects, ignored, crowd, threshold):
    """Give each detection, best first, its object, or None; objects that count go before ignored ones."""
    taken, partners = set(), []
    for box in boxes:
        best = None
        for pool in (
            [k for k in range(len(objects)) if not ignored[k]],
            [k for k in range(len(objects)) if ignored[k]],
        ):
            least = min(threshold, 1 - 1e-10)
            for k in pool:
                share = overlap(box, objects[k], crowd[k])
                if share >= least and (crowd[k] or k not in taken):
                    best, least = k, share
            if best is not None:
                break
        if best is not None:
            taken.add(best)
        partners.append(best)
    return partners


def evaluate_class(images, threshold, limits, most):
    """Return the 101 precisions and the recall of one class, or None where it has no object.

    images: list of (boxes (n, 4), scores (n,), objects (m, 4), crowd (m,), areas (m,)).
    """
    scores, right, counted, total = [], [], [], 0
    for boxes, marks, objects, crowd, areas in images:
        order = sorted(range(len(marks)), key=lambda d: -marks[d])[:most]
        ignored = [bool(crowd[k]) or not limits[0] <= areas[k] <= limits[1] for k in range(len(objects))]
        total += ignored.count(False)
        partners = match([boxes[d] for d in order], objects, ignored, crowd, threshold)
        for d, partner in zip(order, partners, strict=True):
            area = (boxes[d][2] - boxes[d][0]) * (boxes[d][3] - boxes[d][1])
            outside = not limits[0] <= area <= limits[1]
            scores.append(marks[d])
            right.append(partner is not None)
            counted.append(not (ignored[partner] if partner is not None else outside))
    if total == 0:
        return None
    hits = misses = 0
    curve = []
    for d in sorted(range(len(scores)), key=lambda d: -scores[d]):
        hits += right[d] and counted[d]
        misses += not right[d] and counted[d]
        curve.append((hits / total, hits / (hits + misses) if hits + misses else 0.0))
    precisions = [max((p for r, p in curve if r >= recall), default=0.0) for recall in RECALLS]
    return precisions, (curve[-1][0] if curve else 0.0)


def evaluate(found, known, num_classes):
    """COCO's numbers by name, and AP per class; NaN where nothing is to be found."""

    def images(label):
        for detections, (objects, labels, crowd, areas) in zip(found, known, strict=True):
            mine = [d for d in range(len(detections["labels"])) if detections["labels"][d] == label]
            theirs = [k for k in range(len(labels)) if labels[k] == label]
            yield (
                [detections["boxes"][d] for d in mine],
                [detections["scores"][d] for d in mine],
                *([part[k] for k in theirs] for part in (objects, crowd, areas)),
            )

    def score(which, thresholds=THRESHOLDS, name="all", most=100, classes=range(num_classes)):
        results = [
            evaluate_class(list(images(label)), threshold, RANGES[name], most)
            for label in classes
            for threshold in thresholds
        ]
        values = [np.mean(result[which]) for result in results if result is not None]
        return float(np.mean(values)) if values else np.nan

    numbers = {"ap": score(0), "ap50": score(0, [THRESHOLDS[0]]), "ap75": score(0, [THRESHOLDS[5]])}
    numbers |= {f"ap_{name}": score(0, name=name) for name in RANGES if name != "all"}
    numbers |= {f"ar{most}": score(1, most=most) for most in (1, 10, 100)}
    numbers |= {f"ar_{name}": score(1, name=name) for name in RANGES if name != "all"}
    return numbers, [score(0, classes=[label]) for label in range(num_classes)]
