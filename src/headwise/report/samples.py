"""The held-out pictures a run saved: photograph, polygons, output maps and their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Map = NDArray[np.float32]
    Points = NDArray[np.float32]


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
class Sample:
    """A held-out picture as the run saved it.

    Attributes:
        name: of the file.
        image: (H, W, 3) uint8.
        polygons: annotations, each (v, 2) pixels (x, y).
        ignored: one flag per annotation: neither finding nor missing it counts.
        detections: found polygons, each (v, 2).
        scores: one per detection.
        maps: output maps with their targets.
        outline: (H, W) bool, the target text region, or `None`.
    """

    name: str
    image: NDArray[np.uint8]
    polygons: Sequence[Points]
    ignored: Sequence[bool]
    detections: Sequence[Points]
    scores: Sequence[float]
    maps: Sequence[MapPair]
    outline: NDArray[np.bool_] | None


def read_sample(path: Path) -> Sample:
    """Read a held-out picture; parts the file does not have stay empty.

    Args:
        path: a .npz file of the run's samples folder.

    Returns:
        The picture, its polygons and maps.

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
        region = arrays.get("text_region")
        polygons = _polygons(arrays, "polygons", "lengths")
        ignored = [bool(flag) for flag in arrays.get("ignored", [False] * len(polygons))]
        if len(ignored) != len(polygons):
            raise ValueError(f"ignored has {len(ignored)} flags for {len(polygons)} polygons")
        return Sample(
            path.stem,
            image,
            polygons,
            ignored,
            _polygons(arrays, "detection_points", "detection_lengths"),
            [float(score) for score in arrays.get("scores", ())],
            _maps(arrays),
            None if region is None else region > 0,
        )
    except Exception as error:  # a cut-off archive raises from zipfile, zlib or NumPy alike
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"report: {path} cannot be shown ({reason}). Train again, or remove the file.") from error


def _polygons(arrays: Mapping[str, NDArray[np.float32]], points: str, lengths: str) -> list[Points]:
    if points not in arrays or lengths not in arrays:
        return []
    rows, counts = arrays[points].reshape(-1, 2), [int(count) for count in arrays[lengths]]
    if sum(counts) != len(rows):
        raise ValueError(f"{points} has {len(rows)} points, {lengths} add up to {sum(counts)}")
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    return [rows[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _maps(arrays: Mapping[str, NDArray[np.float32]]) -> list[MapPair]:
    """The five pictures of seven channels: two pairs of logits become probabilities."""
    import numpy as np

    if "maps" not in arrays:
        return []
    logits = arrays["maps"].astype(np.float32)
    if logits.ndim != 3 or len(logits) != 7:
        raise ValueError(f"maps has shape {logits.shape}, not (7, H, W)")
    targets = {
        name: arrays[name].astype(np.float32) if name in arrays else None
        for name in ("text_region", "center_line", "sin", "cos", "radius")
    }
    tallest = max(float(np.nanmax(m)) for m in (logits[6], targets["radius"]) if m is not None)
    radius_span = (0.0, max(tallest, 1.0) if np.isfinite(tallest) else 1.0)
    return [
        MapPair("text region (probability)", _probability(logits[0:2]), targets["text_region"], (0, 1), "magma"),
        MapPair("centre line (probability)", _probability(logits[2:4]), targets["center_line"], (0, 1), "magma"),
        MapPair("sin (direction of the line)", logits[4], targets["sin"], (-1, 1), "RdBu"),
        MapPair("cos (direction of the line)", logits[5], targets["cos"], (-1, 1), "RdBu"),
        MapPair("radius (pixels)", logits[6], targets["radius"], radius_span, "viridis"),
    ]


def _probability(logits: Map) -> Map:
    """Softmax of (background, foreground) logits, the foreground's."""
    import numpy as np

    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(logits[0] - logits[1])), dtype=np.float32)
