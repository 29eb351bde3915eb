"""The held-out pictures a run saved: the picture, outlines, output maps and their targets, pairs of points, label maps.

The keys of the files are listed in `headwise.runs.samples`, which writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Map = NDArray[np.float32]
    Points = NDArray[np.float32]
    Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Shape:
    """One outline.

    Attributes:
        points: (v, 2) pixels (x, y), pixel edges.
        label: what it is, or "".
        ignored: neither finding nor missing it counts.
        score: NaN for none.
    """

    points: Points
    label: str
    ignored: bool
    score: float


@dataclass(frozen=True)
class MapPair:
    """One output map beside what it should be.

    Attributes:
        title: what the map holds.
        values: (H, W), NaN where there is none.
        target: (H, W), or `None`.
        span: lowest and highest value of the colour scale.
        colours: name of a matplotlib colour map, even in lightness or, for signs, with a light middle.
    """

    title: str
    values: Map
    target: Map | None
    span: tuple[float, float]
    colours: str


@dataclass(frozen=True)
class PointPairs:
    """Two numbers per object on one line.

    Attributes:
        title: what the line is.
        names: what the first and the second number are.
        first: one per object.
        second: one per object.
        labels: one per object, or "".
    """

    title: str
    names: tuple[str, str]
    first: Sequence[float]
    second: Sequence[float]
    labels: Sequence[str]


@dataclass(frozen=True)
class Instances:
    """Label maps over the whole picture, 0 the background.

    Attributes:
        annotated: (H, W) integers.
        found: (H, W) integers.
    """

    annotated: NDArray[np.int32]
    found: NDArray[np.int32]


@dataclass(frozen=True)
class Sample:
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
    annotated: Sequence[Shape] = ()
    found: Sequence[Shape] = ()
    maps: Sequence[MapPair] = ()
    pairs: Sequence[PointPairs] = ()
    instances: Instances | None = None
    outline: NDArray[np.bool_] | None = None
    note: str = ""


def read_sample(path: Path) -> Sample:
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
        return Sample(path.stem, title, image, *parts)
    except Exception as error:  # a cut-off archive raises from zipfile, zlib or NumPy alike
        missing = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        reason = " ".join(missing.split()) or type(error).__name__
        raise ValueError(f"report: {path} cannot be shown ({reason}). Train again, or remove the file.") from error


def _shapes(arrays: Arrays, kind: str) -> list[Shape]:
    if f"{kind}_points" not in arrays:
        return []
    points, counts = arrays[f"{kind}_points"].reshape(-1, 2), arrays[f"{kind}_lengths"].tolist()
    if sum(counts) != len(points):
        raise ValueError(f"{kind}_points has {len(points)} points, {kind}_lengths add up to {sum(counts)}")
    defaults = (("labels", ""), ("ignored", False), ("scores", float("nan")))
    columns = {}
    for name, default in defaults:
        columns[name] = arrays[f"{kind}_{name}"].tolist() if f"{kind}_{name}" in arrays else [default] * len(counts)
        if len(columns[name]) != len(counts):
            raise ValueError(f"{kind}_{name} has {len(columns[name])} entries for {len(counts)} outlines")
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    return [
        Shape(points[end - count : end], str(label), bool(ignored), float(score))
        for end, count, label, ignored, score in zip(ends, counts, *columns.values(), strict=True)
    ]


def _maps(arrays: Arrays) -> list[MapPair]:
    import numpy as np

    if "map_titles" not in arrays:
        return []
    spans, colours = arrays["map_spans"].tolist(), arrays["map_colours"].tolist()
    return [
        MapPair(
            str(title),
            _plane(arrays, f"map_{k}_values").astype(np.float32),
            _plane(arrays, f"map_{k}_target").astype(np.float32) if f"map_{k}_target" in arrays else None,
            (float(spans[k][0]), float(spans[k][1])),
            str(colours[k]),
        )
        for k, title in enumerate(arrays["map_titles"].tolist())
    ]


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
        found.append(PointPairs(title, (names[0], names[1]), first, second, labels))
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
