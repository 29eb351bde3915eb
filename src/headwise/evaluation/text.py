"""How well words were found: DetEval, which pays for split and merged words, and matching at IoU 0.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwise.require import require

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]

Score = dict[str, float]

IGNORED_SHARE = 0.5  # a detection that lies by more than this in an ignored region is not judged
SPLIT_CREDIT = 0.8  # DetEval's credit for a word found in parts, or for several words found as one


@dataclass(frozen=True)
class _Image:
    """One image's overlaps, ignored regions and what lies in them left out.

    Attributes:
        recall: (K, D) intersection over the area of the annotation.
        precision: (K, D) intersection over the area of the detection.
        iou: (K, D) intersection over union.
        scores: (D,) of the detections.
    """

    recall: Matrix
    precision: Matrix
    iou: Matrix
    scores: Matrix


def evaluate_text(
    detections: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    *,
    iou_threshold: float = 0.5,
    recall_threshold: float = 0.8,
    precision_threshold: float = 0.4,
    as_published: bool = False,
) -> dict[str, Score]:
    """Score detected outlines of words against annotated ones, over all images together.

    ``iou50``: detections take, best score first, the free annotation of largest IoU, if it is at least
    ``iou_threshold``. ``deteval``: with sigma = intersection / annotation and tau = intersection /
    detection, both rounded to 2 decimals, a pair with sigma > ``recall_threshold`` and tau >
    ``precision_threshold`` and no other such partner counts 1; an annotation split over several detections,
    or several annotations merged in one, count 0.8 each. Recall is the credit over the annotations,
    precision the credit over the detections.

    Args:
        detections: per image ``polygons`` (list of (v, 2), x and y in pixels) and ``scores`` (n,), as
            ``coders.snakes.decode_snakes`` returns.
        annotations: per image ``polygons`` and ``ignored`` (one flag each). A detection of which more than
            half lies in an ignored region is left out.
        iou_threshold: for ``iou50``, in (0, 1].
        recall_threshold: DetEval's tr, in (0, 1].
        precision_threshold: DetEval's tp, in (0, 1].
        as_published: add ``deteval_published``, which repeats the errors of the authors' script.

    Returns:
        ``iou50``, ``deteval`` (and ``deteval_published``), each with ``precision``, ``recall``, ``f`` in [0,
        1] (the published variant may exceed 1); a share of nothing is 0.

    Raises:
        ValueError: lists of different length, an outline that is not (v, 2) with v >= 3 and finite, a score
            that is not finite, flags that are numbers or words, or a threshold out of range.

    Reference:
        Wolf and Jolion, Object count/area graphs, IJDAR 2006; princewang1994/TextSnake.pytorch at b4ee996d,
        dataset/total_text/Evaluation_Protocol/Python_scripts/Deteval.py (after Total-Text's own).

    Differs:
        The authors' script (1) drops the last vertex of every detection; (2) tests many-to-one with the
        precision threshold in place of the recall threshold; (3) counts one-to-one where the two conditions
        hold for different detections, or for one detection and several annotations. All three are mended
        here. Areas are exact, not counted pixels.
    """
    _check(detections, annotations, (iou_threshold, recall_threshold, precision_threshold))
    pairs = list(zip(detections, annotations, strict=True))
    images = [_overlap(i, *pair, drop_last=False) for i, pair in enumerate(pairs)]
    thresholds = recall_threshold, precision_threshold
    scores = {
        "iou50": _pool([_match_iou(image, iou_threshold) for image in images], images),
        "deteval": _pool([_match_deteval(image, *thresholds, as_published=False) for image in images], images),
    }
    if as_published:
        images = [_overlap(i, *pair, drop_last=True) for i, pair in enumerate(pairs)]
        credits = [_match_deteval(image, *thresholds, as_published=True) for image in images]
        scores["deteval_published"] = _pool(credits, images)
    return scores


def _check(
    detections: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    thresholds: tuple[float, ...],
) -> None:
    if len(detections) != len(annotations):
        raise ValueError(
            f"evaluate_text: {len(detections)} images of detections, {len(annotations)} of annotations. "
            "Give one entry per image in both."
        )
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"evaluate_text: thresholds must be in (0, 1], found {thresholds}.")
    for i, (found, known) in enumerate(zip(detections, annotations, strict=True)):
        for name, entry, other in (("detections", found, "scores"), ("annotations", known, "ignored")):
            if lacking := [key for key in ("polygons", other) if key not in entry]:
                raise ValueError(
                    f"evaluate_text: {name} of image {i} lack {', '.join(lacking)}; found {', '.join(map(str, entry))}."
                )
            if len(entry["polygons"]) != len(entry[other]):
                held = f"{len(entry['polygons'])} polygons and {len(entry[other])} {other}"
                raise ValueError(f"evaluate_text: {name} of image {i} hold {held}. Give one of each per word.")
        _check_numbers(i, found["scores"], known["ignored"])


def _check_numbers(image: int, scores: Sequence[Any], ignored: Sequence[Any]) -> None:
    import numpy as np

    if not np.isfinite([float(score) for score in scores]).all():
        raise ValueError(
            f"evaluate_text: detections of image {image} have a score that is not finite. Mend the decoder, or remove "
            "them."
        )
    flags = np.asarray([*ignored])
    if flags.size and flags.dtype != np.bool_:
        raise ValueError(
            f"evaluate_text: annotations of image {image} are ignored by true or false, found {flags.dtype}. Convert "
            "the flags."
        )


def _overlap(index: int, found: Mapping[str, Any], known: Mapping[str, Any], *, drop_last: bool) -> _Image:
    import numpy as np

    shapely = _shapely()
    words = _regions(known["polygons"], f"annotation of image {index}")
    seen = _regions(found["polygons"], f"detection of image {index}")
    ignored = np.array([bool(flag) for flag in known["ignored"]], bool)
    inside = shapely.area(shapely.intersection(words[ignored, None], seen[None, :]))
    judged = ~(_share(inside, shapely.area(seen)) > IGNORED_SHARE).any(axis=0)
    if drop_last:
        seen = _regions([points[:-1] for points in found["polygons"]], "detection", least=2)
    words, seen = words[~ignored], seen[judged]
    shared = shapely.area(shapely.intersection(words[:, None], seen[None, :]))
    areas, sizes = shapely.area(words)[:, None], shapely.area(seen)[None, :]
    scores = np.array([float(score) for score in found["scores"]])[judged]
    return _Image(_share(shared, areas), _share(shared, sizes), _share(shared, areas + sizes - shared), scores)


def _regions(polygons: Sequence[Any], what: str, least: int = 3) -> npt.NDArray[np.object_]:
    import numpy as np

    shapely = _shapely()
    regions = np.empty(len(polygons), object)
    for k, points in enumerate(polygons):
        outline = np.asarray(points, np.float64)
        if outline.ndim != 2 or outline.shape[1] != 2 or len(outline) < least or not np.isfinite(outline).all():
            rule = f"must be (v, 2) finite points with v >= {least}, found shape {outline.shape}"
            raise ValueError(f"evaluate_text: polygon {k}, {what}, {rule}. Remove or mend it.")
        # Two points are left of a triangle that lost one: a region without area.
        regions[k] = shapely.make_valid(shapely.polygons(outline)) if len(outline) > 2 else shapely.Point()
    return regions


def _share(part: Matrix, whole: Matrix) -> Matrix:
    import numpy as np

    whole = np.broadcast_to(whole, np.broadcast_shapes(part.shape, whole.shape))
    return np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0)


def _match_iou(image: _Image, threshold: float) -> tuple[float, float]:
    """Credit for recall and for precision: the number of matches, twice."""
    iou = image.iou.copy()
    matches = 0
    for detection in (-image.scores).argsort(kind="stable") if len(iou) else []:
        best = iou[:, detection].argmax()
        if iou[best, detection] >= threshold:
            iou[best] = 0
            matches += 1
    return matches, matches


def _match_deteval(
    image: _Image, recall_threshold: float, precision_threshold: float, *, as_published: bool
) -> tuple[float, float]:
    """Credit for recall and for precision: first single pairs, then split words, then merged ones."""
    sigma, tau = image.recall.round(2), image.precision.round(2)
    singles = _match_singles(sigma > recall_threshold, tau > precision_threshold, mutual=not as_published)
    words, detections = ~singles.any(axis=1), ~singles.any(axis=0)
    found = float((~words).sum())
    split = _match_groups((sigma, recall_threshold), (tau, precision_threshold), words, detections)
    merging = precision_threshold if as_published else recall_threshold
    merged = _match_groups(
        (tau.T, precision_threshold), (sigma.T, recall_threshold), detections, words, part_threshold=merging
    )
    return found + split[0] + merged[1], found + split[1] + merged[0]


def _match_singles(covered: Any, filled: Any, *, mutual: bool) -> Any:
    """Pairs (K, D) of a word and a detection that have no other partner."""
    alone = (covered.sum(axis=1, keepdims=True) == 1) & (filled.sum(axis=1, keepdims=True) == 1)
    if not mutual:
        return covered & alone
    return covered & filled & alone & (covered.sum(axis=0) == 1) & (filled.sum(axis=0) == 1)


def _match_groups(
    whole: tuple[Matrix, float],
    parts: tuple[Matrix, float],
    free_wholes: Any,
    free_parts: Any,
    *,
    part_threshold: float | None = None,
) -> tuple[float, float]:
    """Match each free whole with the free parts that lie in it, and mark both as taken.

    Args:
        whole: intersection over the whole (A, B), and the share of it that the parts must cover together.
        parts: intersection over the part (A, B), and the share of it that must lie in the whole.
        free_wholes: (A,) bool, changed.
        free_parts: (B,) bool, changed.
        part_threshold: another share that decides which parts are candidates.

    Returns:
        Credit for the wholes and for the parts.
    """
    (cover, cover_threshold), (inside, inside_threshold) = whole, parts
    candidate = inside >= (inside_threshold if part_threshold is None else part_threshold)
    credit_wholes = credit_parts = 0.0
    for one in free_wholes.nonzero()[0]:
        taken = candidate[one] & free_parts
        num = int(taken.sum())
        if (cover[one] > 0).sum() < 2 or num == 0 or cover[one, taken].sum() < cover_threshold:
            continue
        if num == 1 and inside[one, taken][0] < inside_threshold:
            continue
        credit = 1.0 if num == 1 else SPLIT_CREDIT
        credit_wholes += credit
        credit_parts += credit * num
        free_wholes[one] = False
        free_parts[taken] = False
    return credit_wholes, credit_parts


def _pool(credits: list[tuple[float, float]], images: list[_Image]) -> Score:
    recall = _quotient(sum(credit[0] for credit in credits), sum(image.iou.shape[0] for image in images))
    precision = _quotient(sum(credit[1] for credit in credits), sum(image.iou.shape[1] for image in images))
    return {
        "precision": precision,
        "recall": recall,
        "f": _quotient(2 * precision * recall, precision + recall),
    }


def _quotient(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def _shapely() -> Any:
    require("evaluate_text", "coders", "shapely", "numpy")
    import shapely

    return shapely
