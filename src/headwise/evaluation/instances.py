"""How well objects were told apart: matching at an IoU, Dice of the foreground, and touching pairs kept separate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwise.require import require
from headwise.whole import is_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Labels = NDArray[np.int64]


@dataclass(frozen=True)
class _Counts:
    """What is counted on one picture, and adds up over pictures."""

    matched: int = 0
    found: int = 0
    known: int = 0
    shared_pixels: int = 0
    found_pixels: int = 0
    known_pixels: int = 0
    pairs: int = 0
    separated: int = 0
    merged: int = 0


def evaluate_instances(
    found: Sequence[Any], known: Sequence[Any], *, iou_threshold: float = 0.5, reach: int = 2
) -> dict[str, Mapping[str, float]]:
    """Score found instance maps against annotated ones, over all pictures together.

    Found and annotated objects are matched one to one, with as many matches as there can be at
    ``IoU >= iou_threshold`` and the largest sum of IoU among those. Two annotated objects are a touching pair where
    a pixel of one is at most ``reach`` pixels, along both axes, from one of the other. A pair is separated when both
    are matched, hence with different found objects; it is merged when one found object covers more than half of each.

    Args:
        found: Per picture (H, W) integers, 0 the background.
        known: The same of the annotation.
        iou_threshold: In (0, 1].
        reach: Pixels; 1 for objects that share a side or a corner, 2 for those with a line of a pixel between them.

    Returns:
        ``instances``: ``ap`` = matched / (matched + only found + only annotated), ``precision``, ``recall``, ``f``;
        ``pixels``: ``dice`` of all objects together; ``touching``: ``separated`` and ``merged``, shares of the pairs,
        and ``pairs``, their number. A share of nothing is 0, an ``ap``, ``f`` or ``dice`` of nothing in both is 1.

    Raises:
        ValueError: Lists of different length, maps of different shape or that are no maps of numbers, or an option
            out of its range.
        ImportError: scipy is missing.

    Reference:
        Caicedo et al., Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl, Nature Methods
        2019 (the average precision of a threshold).
    """
    if len(found) != len(known):
        raise ValueError(
            f"evaluate_instances: {len(found)} found maps, {len(known)} annotated. Give one each a picture."
        )
    if not 0 < iou_threshold <= 1 or not is_whole(reach, 1):
        raise ValueError(
            f"evaluate_instances: iou_threshold is in (0, 1] and reach at least 1, found {iou_threshold} and {reach}."
        )
    counts = [
        _count(*_maps(index, *maps), iou_threshold, reach) for index, maps in enumerate(zip(found, known, strict=True))
    ]
    return _scores({name: sum(getattr(each, name) for each in counts) for name in _Counts.__dataclass_fields__})


def touching_pairs(label: Labels, reach: int = 2) -> NDArray[np.int64]:
    """Find the objects that touch, or nearly so.

    Args:
        label: (H, W) numbers of objects, 0 the background.
        reach: At most so many pixels, along both axes, between a pixel of one and a pixel of the other.

    Returns:
        (p, 2) their numbers, the smaller first, without repetition.
    """
    import numpy as np

    height, width = label.shape
    pairs = [np.zeros((0, 2), np.int64)]
    for down in range(reach + 1):
        for right in range(-reach if down else 1, reach + 1):
            here = label[: max(height - down, 0), max(-right, 0) : max(width - max(right, 0), 0)]
            there = label[down:, max(right, 0) : max(width + min(right, 0), 0)]
            differ = (here > 0) & (there > 0) & (here != there)
            pairs.append(np.stack([here[differ], there[differ]], axis=1).astype(np.int64))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _maps(index: int, found: Any, known: Any) -> tuple[Labels, Labels]:
    import numpy as np

    maps = [np.asarray(found), np.asarray(known)]
    for each in maps:
        if each.ndim != 2 or each.dtype.kind not in "iu" or (each.size and each.min() < 0):
            raise ValueError(
                f"evaluate_instances: a map of picture {index} is {each.shape} {each.dtype}, but must be (H, W) "
                "integers from 0 on. Number the objects first."
            )
    if maps[0].shape != maps[1].shape:
        raise ValueError(
            f"evaluate_instances: picture {index} has a found map of {maps[0].shape} and an annotated one of "
            f"{maps[1].shape}. Bring what was found to the size of the picture."
        )
    return maps[0].astype(np.int64), maps[1].astype(np.int64)


def _count(found: Labels, known: Labels, iou_threshold: float, reach: int) -> _Counts:
    import numpy as np

    numbers, known_places = np.unique(known, return_inverse=True)
    found_numbers, found_places = np.unique(found, return_inverse=True)
    table = np.zeros((len(numbers), len(found_numbers)), np.int64)
    np.add.at(table, (known_places.ravel(), found_places.ravel()), 1)
    objects, pieces = numbers > 0, found_numbers > 0
    areas, sizes = table.sum(axis=1)[objects], table.sum(axis=0)[pieces]
    shared = table[np.ix_(objects, pieces)]
    matched = match_by_iou(shared / (areas[:, None] + sizes[None, :] - shared), iou_threshold)
    half = shared > areas[:, None] / 2
    pairs = np.searchsorted(numbers[objects], touching_pairs(known, reach))
    return _Counts(
        matched=int(matched.sum()),
        found=len(sizes),
        known=len(areas),
        shared_pixels=int(shared.sum()),
        found_pixels=int(sizes.sum()),
        known_pixels=int(areas.sum()),
        pairs=len(pairs),
        separated=int(matched[pairs].all(axis=1).sum()),
        merged=int((half[pairs[:, 0]] & half[pairs[:, 1]]).any(axis=1).sum()),
    )


def match_by_iou(iou: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Tell which of the annotated (rows) have a partner among the found (columns)."""
    require("evaluate_instances", "data", "numpy", "scipy")
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    # One more match outweighs any sum of IoU.
    gain = np.where(iou >= threshold, iou + min(iou.shape) + 1, 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    matched = np.zeros(len(iou), bool)
    matched[rows] = gain[rows, columns] > 0
    return matched


def _scores(count: Mapping[str, int]) -> dict[str, Mapping[str, float]]:
    matched, found, known = count["matched"], count["found"], count["known"]
    pixels = count["found_pixels"] + count["known_pixels"]
    return {
        "instances": {
            "ap": _share(matched, found + known - matched, of_nothing=1.0),
            "precision": _share(matched, found),
            "recall": _share(matched, known),
            "f": _share(2 * matched, found + known, of_nothing=1.0),
        },
        "pixels": {"dice": _share(2 * count["shared_pixels"], pixels, of_nothing=1.0)},
        "touching": {
            "separated": _share(count["separated"], count["pairs"]),
            "merged": _share(count["merged"], count["pairs"]),
            "pairs": float(count["pairs"]),
        },
    }


def _share(part: float, whole: float, of_nothing: float = 0.0) -> float:
    return part / whole if whole else of_nothing
