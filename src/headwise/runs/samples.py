"""Held-out pictures as files: what a run saves for its report, the same for every system.

A sample is ``<index>.npz``, with the picture beside it as ``<index>.png``. The npz is the contract with reports; it
needs no pickle. Its keys, of which only ``image`` is always there:

=============================  ====================================================================================
``image``                      (H, W, 3) uint8
``annotated_points``           (V, 2) float32: all outlines' points (x, y), one outline after the other
``annotated_lengths``          (n,) int64: how many points each outline has
``annotated_labels``           (n,) str: what each is; "" for nothing
``annotated_ignored``          (n,) bool: neither finding nor missing it counts
``annotated_scores``           (n,) float32: NaN for none
``found_...``                  the same five of what the network found
``map_titles``                 (m,) str
``map_spans``                  (m, 2) float32: lowest and highest value of each colour scale
``map_colours``                (m,) str: one of `Colours`
``map_<k>_values``             (h, w) float16 or float32, k from 0: an output map on its own grid; NaN for no value
``map_<k>_target``             (h, w): what it should be, if there is a target
``pairs_titles``               (p,) str
``pairs_names``                (p, 2) str: what the first and the second point of a pair is
``pairs_<k>_first``            (n,) float32: the first points, one per object, on a line
``pairs_<k>_second``           (n,) float32: the second points
``pairs_<k>_labels``           (n,) str
``instances_annotated``        (H', W') int32, 0 the background: a label map over the whole picture
``instances_found``            (H', W') int32
``outline``                    (h, w) bool: a region whose border is drawn on all maps
``name``                       str: what the picture is called, its file for instance
``note``                       str: a sentence or two on how to read the maps
=============================  ====================================================================================

Points are in pixels of the picture, which spans 0..W and 0..H (pixel edges).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from headwise.files import write_atomically
from headwise.runs.sample_parts import (
    Colours,
    Instances,
    PointPairs,
    SampleMap,
    Shapes,
    as_array,
    box_polygon,
    box_shapes,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headwise.runs.sample_parts import Array

__all__ = ["Instances", "PointPairs", "SampleMap", "Shapes", "box_polygon", "box_shapes", "encode_png", "save_sample"]


def save_sample(
    folder: Path,
    index: int,
    image: NDArray[np.uint8],
    *,
    annotated: Shapes | None = None,
    found: Shapes | None = None,
    maps: Sequence[SampleMap] = (),
    pairs: Sequence[PointPairs] = (),
    instances: Instances | None = None,
    outline: Array | None = None,
    name: str = "",
    note: str = "",
) -> Path:
    """Save a held-out picture for the report, as ``<index>.npz`` and ``<index>.png``, each whole or not at all.

    Arrays may be NumPy's or torch's, on any device. Everything is shown as it is given: what is to be seen as a
    probability is given as one.

    Args:
        folder: Made if missing.
        index: Of the picture; the file's name, in three digits.
        image: (H, W, 3) uint8 RGB.
        annotated: What is known to be there.
        found: What the network found.
        maps: Output maps with their targets, in the order in which they are shown.
        pairs: Matched points on a line, one strip each.
        instances: Label maps.
        outline: (h, w) bool: a region whose border is drawn on all maps.
        name: What the picture is called; its number by default.
        note: How to read the maps: whole sentences.

    Returns:
        The npz file.

    Raises:
        ValueError: An array has another shape or type than said, or lists do not have one entry per outline.
        OSError: A file could not be written; the message names it.
    """
    import numpy as np

    where = f"sample {index}"
    arrays: dict[str, Any] = {"image": _image(image, where)}
    arrays |= _shapes(annotated, "annotated", where) | _shapes(found, "found", where)
    arrays |= _maps(maps, where) | _pairs(pairs, where)
    if instances is not None:
        arrays["instances_annotated"] = _plane(instances.annotated, "instances.annotated", where).astype(np.int32)
        arrays["instances_found"] = _plane(instances.found, "instances.found", where).astype(np.int32)
    if outline is not None:
        arrays["outline"] = _plane(outline, "outline", where).astype(bool)
    arrays |= {key: np.array(text) for key, text in (("name", name), ("note", note)) if text}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{index:03d}.png", encode_png(arrays["image"]))
    path = folder / f"{index:03d}.npz"
    write_atomically(path, _npz(arrays))
    return path


def _image(image: Any, where: str) -> NDArray[np.uint8]:
    import numpy as np

    pixels = as_array(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"{where}: image must be (H, W, 3) uint8, found {pixels.shape} {pixels.dtype}.")
    return pixels


def _shapes(shapes: Shapes | None, kind: str, where: str) -> dict[str, Any]:
    import numpy as np

    if shapes is None:
        return {}
    outlines = [as_array(polygon).astype(np.float32) for polygon in shapes.polygons]
    for k, points in enumerate(outlines):
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"{where}: {kind} polygon {k} must be (v, 2) points (x, y), found {points.shape}.")
    num = len(outlines)
    labels = list(shapes.labels) or [""] * num
    ignored = list(shapes.ignored) or [False] * num
    scores = list(shapes.scores) or [float("nan")] * num
    for name, values in (("labels", labels), ("ignored", ignored), ("scores", scores)):
        if len(values) != num:
            raise ValueError(f"{where}: {len(values)} {kind} {name} for {num} polygons. Give one each, or none.")
    return {
        f"{kind}_points": np.concatenate([np.zeros((0, 2), np.float32), *outlines]),
        f"{kind}_lengths": np.array([len(points) for points in outlines], np.int64),
        f"{kind}_labels": np.array(labels, np.str_),
        f"{kind}_ignored": np.array([bool(flag) for flag in ignored], bool),
        f"{kind}_scores": np.array([float(score) for score in scores], np.float32),
    }


def _maps(maps: Sequence[SampleMap], where: str) -> dict[str, Any]:
    import numpy as np

    found: dict[str, Any] = {}
    spans = []
    for k, each in enumerate(maps):
        if each.colours not in get_args(Colours):
            known = ", ".join(get_args(Colours))
            raise ValueError(f"{where}: map {each.title!r} has colours {each.colours!r}; choose one of {known}.")
        planes = {"values": _plane(each.values, f"map {each.title!r}", where)}
        if each.target is not None:
            planes["target"] = _plane(each.target, f"target of map {each.title!r}", where)
        planes = {
            key: plane if plane.dtype == np.float16 else plane.astype(np.float32) for key, plane in planes.items()
        }
        spans.append(each.span or _span(planes))
        found |= {f"map_{k}_{key}": plane for key, plane in planes.items()}
    if maps:
        found["map_titles"] = np.array([each.title for each in maps], np.str_)
        found["map_spans"] = np.array(spans, np.float32)
        found["map_colours"] = np.array([each.colours for each in maps], np.str_)
    return found


def _span(planes: Mapping[str, NDArray[Any]]) -> tuple[float, float]:
    """The lowest and the highest finite value, never the same."""
    import numpy as np

    values = np.concatenate([plane[np.isfinite(plane)].astype(np.float32) for plane in planes.values()])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return low, high if high > low else low + 1.0


def _pairs(pairs: Sequence[PointPairs], where: str) -> dict[str, Any]:
    import numpy as np

    found: dict[str, Any] = {}
    for k, each in enumerate(pairs):
        first, second = (as_array(points).astype(np.float32) for points in (each.first, each.second))
        labels = list(each.labels) or [""] * len(first)
        if first.ndim != 1 or first.shape != second.shape or len(labels) != len(first):
            held = f"found {first.shape}, {second.shape} and {len(labels)} labels"
            raise ValueError(f"{where}: pairs {each.title!r} must be two of (n,) and n labels or none, {held}.")
        found |= {f"pairs_{k}_first": first, f"pairs_{k}_second": second}
        found[f"pairs_{k}_labels"] = np.array(labels, np.str_)
    if pairs:
        found["pairs_titles"] = np.array([each.title for each in pairs], np.str_)
        found["pairs_names"] = np.array([each.names for each in pairs], np.str_)
    return found


def _plane(values: Array, what: str, where: str) -> NDArray[Any]:
    plane = as_array(values)
    if plane.ndim != 2 or 0 in plane.shape:
        raise ValueError(f"{where}: {what} must be (h, w) and not empty, found {plane.shape}.")
    return plane


def _npz(arrays: Mapping[str, Any]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def encode_png(picture: Any) -> bytes:
    """Return the bytes of a PNG file.

    Args:
        picture: (H, W, 3) uint8, (H, W) uint8 or uint16, or Pillow's.

    Returns:
        The bytes.
    """
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    image.save(buffer, "PNG")
    return buffer.getvalue()
