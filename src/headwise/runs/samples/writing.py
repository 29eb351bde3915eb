"""Writing a sample: every part checked first, each file whole or not at all."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from headwise.files import write_atomically
from headwise.runs.samples.parts import Colors, Instances, PointPairs, SampleMap, Shapes, as_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headwise.runs.samples.parts import Array

_Part = TypeVar("_Part")


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
        _check_kind(instances, Instances, "instances", where)
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


def next_index(folder: Path) -> int:
    """Returns the number of the first picture that replaces none.

    Args:
        folder: Where pictures were saved; it need not exist.

    Returns:
        The number.
    """
    return 1 + max((int(path.stem) for path in folder.glob("*.npz") if path.stem.isdecimal()), default=-1)


def _image(image: Any, where: str) -> NDArray[np.uint8]:
    import numpy as np

    pixels = as_array(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"{where}: image must be (H, W, 3) uint8 and not empty, found {pixels.shape} {pixels.dtype}.")
    return pixels


def _shapes(shapes: Shapes | None, kind: str, where: str) -> dict[str, Any]:
    import numpy as np

    if shapes is None:
        return {}
    _check_kind(shapes, Shapes, kind, where)
    for name, values in (("labels", shapes.labels), ("ignored", shapes.ignored), ("scores", shapes.scores)):
        if values and len(values) != len(shapes):
            raise ValueError(
                f"{where}: {len(values)} {kind} {name} for {len(shapes)} polygons. Give one each, or none."
            )
    rows = list(shapes)
    for k, row in enumerate(rows):
        if row.points.ndim != 2 or row.points.shape[1] != 2:
            raise ValueError(f"{where}: {kind} polygon {k} must be (v, 2) points (x, y), found {row.points.shape}.")
    return {
        f"{kind}_points": np.concatenate([np.zeros((0, 2), np.float32), *(row.points for row in rows)]),
        f"{kind}_lengths": np.array([len(row.points) for row in rows], np.int64),
        f"{kind}_labels": np.array([row.label for row in rows], np.str_),
        f"{kind}_ignored": np.array([row.ignored for row in rows], bool),
        f"{kind}_scores": np.array([row.score for row in rows], np.float32),
    }


def _maps(maps: Sequence[SampleMap], where: str) -> dict[str, Any]:
    import numpy as np

    found: dict[str, Any] = {}
    spans = []
    maps = _list_of(maps, SampleMap, "maps", where)
    for k, each in enumerate(maps):
        if each.colors not in get_args(Colors):
            known = ", ".join(get_args(Colors))
            raise ValueError(f"{where}: map {each.title!r} has colors {each.colors!r}; choose one of {known}.")
        planes = {"values": _plane(each.values, f"map {each.title!r}", where)}
        if each.target is not None:
            planes["target"] = _plane(each.target, f"target of map {each.title!r}", where)
        planes = {
            key: plane if plane.dtype == np.float16 else plane.astype(np.float32) for key, plane in planes.items()
        }
        low, high = each.limits
        if not -math.inf < low < high < math.inf:
            raise ValueError(
                f"{where}: map {each.title!r} has span {(low, high)}; give a finite low and a larger high."
            )
        spans.append((low, high))
        found |= {f"map_{k}_{key}": plane for key, plane in planes.items()}
    if maps:
        found["map_titles"] = np.array([each.title for each in maps], np.str_)
        found["map_spans"] = np.array(spans, np.float32)
        found["map_colors"] = np.array([each.colors for each in maps], np.str_)
    return found


def _pairs(pairs: Sequence[PointPairs], where: str) -> dict[str, Any]:
    import numpy as np

    found: dict[str, Any] = {}
    pairs = _list_of(pairs, PointPairs, "pairs", where)
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


def _list_of(parts: Any, kind: type[_Part], name: str, where: str) -> Sequence[_Part]:
    """The parts, also where one stands alone."""
    found = parts if isinstance(parts, list | tuple) else [parts]
    for each in found:
        _check_kind(each, kind, name, where)
    return found


def _check_kind(part: object, kind: type, name: str, where: str) -> None:
    if not isinstance(part, kind):
        raise ValueError(
            f"{where}: {name} are given as {kind.__name__} of headwise.runs.samples, found {type(part).__name__}."
        )


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
