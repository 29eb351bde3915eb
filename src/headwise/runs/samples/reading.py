"""Reading a sample: whatever the file holds, it is shown or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from headwise.runs.samples.parts import Colors, Instances, PointPairs, SampleMap, Shapes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class SavedSample:
    """A held-out picture as the run saved it.

    Attributes:
        name: of the file.
        title: what the picture is called.
        image: (H, W, 3) uint8.
        annotated: what is there.
        found: what the network found.
        maps: output maps with their targets.
        pairs: matched points on a line.
        instances: label maps, or `None`.
        outline: (H, W) bool, a region whose border is drawn on the maps, or `None`.
        note: how to read the maps, or "".
    """

    name: str
    title: str
    image: NDArray[np.uint8]
    annotated: Shapes
    found: Shapes
    maps: Sequence[SampleMap]
    pairs: Sequence[PointPairs]
    instances: Instances | None
    outline: NDArray[np.bool_] | None
    note: str


def read_sample(path: Path) -> SavedSample:
    """Read a held-out picture; parts the file does not have stay empty.

    Args:
        path: a .npz file of the run's samples folder.

    Returns:
        The picture and what belongs to it.

    Raises:
        ValueError: the file cannot be read, or its arrays do not fit each other.
        ImportError: NumPy is not installed.
    """
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        image = arrays["image"]
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image is {image.dtype} {image.shape}, not uint8 (H, W, 3)")
        annotated, found = _shapes(arrays, "annotated"), _shapes(arrays, "found")
        outline = _plane(arrays, "outline") > 0 if "outline" in arrays else None
        title, note = str(arrays.get("name", path.stem)), str(arrays.get("note", ""))
        parts = (annotated, found, _maps(arrays), _pairs(arrays), _instances(arrays), outline, note)
        return SavedSample(path.stem, title, image, *parts)
    except Exception as error:  # a cut-off archive raises from zipfile, zlib or NumPy alike
        missing = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        reason = " ".join(missing.split()) or type(error).__name__
        raise ValueError(f"report: {path} cannot be shown ({reason}). Train again, or remove the file.") from error


def _shapes(arrays: Arrays, kind: str) -> Shapes:
    import numpy as np

    if f"{kind}_points" not in arrays:
        return Shapes()
    points, counts = arrays[f"{kind}_points"].reshape(-1, 2), arrays[f"{kind}_lengths"]
    if counts.sum() != len(points) or (counts < 0).any():
        raise ValueError(f"{kind}_points has {len(points)} points, {kind}_lengths add up to {counts.sum()}")
    columns = [arrays[key].tolist() if key in arrays else [] for key in map(f"{kind}_{{}}".format, _COLUMNS)]
    for name, column in zip(_COLUMNS, columns, strict=True):
        if column and len(column) != len(counts):
            raise ValueError(f"{kind}_{name} has {len(column)} entries for {len(counts)} outlines")
    return Shapes(np.split(points, np.cumsum(counts)[:-1]) if len(counts) else (), *columns)


_COLUMNS = ("labels", "ignored", "scores")


def _maps(arrays: Arrays) -> list[SampleMap]:
    import numpy as np

    if "map_titles" not in arrays:
        return []
    rows = zip(arrays["map_titles"].tolist(), arrays["map_spans"].tolist(), arrays["map_colors"].tolist(), strict=True)
    found = []
    for k, (title, (low, high), colors) in enumerate(rows):
        if colors not in get_args(Colors):
            raise ValueError(f"map {title!r} has colors {colors!r}")
        target = _plane(arrays, f"map_{k}_target").astype(np.float32) if f"map_{k}_target" in arrays else None
        values = _plane(arrays, f"map_{k}_values").astype(np.float32)
        found.append(SampleMap(title, values, target, (float(low), float(high)), colors))
    return found


def _pairs(arrays: Arrays) -> list[PointPairs]:
    if "pairs_titles" not in arrays:
        return []
    found = []
    for k, (title, names) in enumerate(
        zip(arrays["pairs_titles"].tolist(), arrays["pairs_names"].tolist(), strict=True)
    ):
        first, second, labels = (arrays[f"pairs_{k}_{key}"].tolist() for key in ("first", "second", "labels"))
        if not len(first) == len(second) == len(labels):
            raise ValueError(f"pairs {title!r} are {len(first)} and {len(second)} points with {len(labels)} labels")
        found.append(PointPairs(title, first, second, labels, (names[0], names[1])))
    return found


def _instances(arrays: Arrays) -> Instances | None:
    if "instances_annotated" not in arrays:
        return None
    return Instances(_plane(arrays, "instances_annotated"), _plane(arrays, "instances_found"))


def _plane(arrays: Arrays, name: str) -> NDArray[Any]:
    plane = arrays[name]
    if plane.ndim != 2 or 0 in plane.shape:
        raise ValueError(f"{name} has shape {plane.shape}, not (H, W)")
    return plane
