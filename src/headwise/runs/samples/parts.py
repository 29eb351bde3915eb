"""What a sample is made of: outlines, maps, pairs of points and label maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Points = NDArray[np.float32]
    Array = NDArray[Any] | Tensor

Colors = Literal["magma", "viridis", "cividis", "RdBu"]


class Shape(NamedTuple):
    """One outline.

    Args:
        points: (v, 2) float32 (x, y) in pixels of the picture, pixel edges.
        label: What it is, or "".
        ignored: Whether neither finding nor missing it counts.
        score: NaN for none.
    """

    points: Points
    label: str
    ignored: bool
    score: float


@dataclass(frozen=True)
class Shapes:
    """Outlines on a picture, by columns; iterating gives them one by one.

    Args:
        polygons: Each (v, 2), points (x, y) in pixels of the picture, pixel edges.
        labels: What each is, such as its class; empty for none.
        ignored: Per outline, whether neither finding nor missing it counts; empty for no.
        scores: Per outline; empty for none.
    """

    polygons: Sequence[Array] = ()
    labels: Sequence[str] = ()
    ignored: Sequence[bool] = ()
    scores: Sequence[float] = ()

    def __len__(self) -> int:
        return len(self.polygons)

    def __iter__(self) -> Iterator[Shape]:
        import numpy as np

        num = len(self)
        columns = (self.labels or [""] * num, self.ignored or [False] * num, self.scores or [math.nan] * num)
        for polygon, label, ignored, score in zip(self.polygons, *columns, strict=True):
            yield Shape(as_array(polygon).astype(np.float32), str(label), bool(ignored), float(score))


@dataclass(frozen=True)
class SampleMap:
    """One output map, and what it should be.

    Args:
        title: What the map holds, such as "top-left corners (probability)"; short, it stands over a small picture.
        values: (h, w), on the output's own grid; NaN for no value. Probabilities, not logits, where it is meant so.
        target: (h, w), or None.
        span: Lowest and highest value of the color scale; None for those of values and target together.
        colors: "magma" for probabilities, "viridis" for sizes, "RdBu" for signed values (give a symmetric span).
    """

    title: str
    values: Array
    target: Array | None = None
    span: tuple[float, float] | None = None
    colors: Colors = "magma"

    @property
    def limits(self) -> tuple[float, float]:
        """The span, or the lowest and the highest finite value, never the same."""
        import numpy as np

        if self.span is not None:
            return self.span
        planes = [as_array(each).astype(np.float32) for each in (self.values, self.target) if each is not None]
        finite = np.concatenate([plane[np.isfinite(plane)] for plane in planes])
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        return low, high if high > low else low + 1.0


@dataclass(frozen=True)
class PointPairs:
    """Two numbers per object on one line, such as the embeddings of its two corners.

    Args:
        title: What the line is, such as "embeddings, last stack".
        first: (n,).
        second: (n,); near the first where the pair was pulled together.
        labels: Per object; empty for none.
        names: What the first and the second are.
    """

    title: str
    first: Array | Sequence[float]
    second: Array | Sequence[float]
    labels: Sequence[str] = ()
    names: tuple[str, str] = ("top-left", "bottom-right")


@dataclass(frozen=True)
class Instances:
    """Label maps over the whole picture: 0 is the background, every other number one object.

    Args:
        annotated: (H', W') integers.
        found: (H', W') integers; the numbers need not agree with those of `annotated`.
    """

    annotated: Array
    found: Array


def box_polygon(box: Any) -> Points:
    """The outline of a box.

    Args:
        box: x1, y1, x2, y2.

    Returns:
        (4, 2) float32, clockwise from the top left.
    """
    import numpy as np

    x1, y1, x2, y2 = as_array(box).astype(np.float32).tolist()
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)


def box_shapes(
    boxes: Array,
    labels: Array,
    class_names: Sequence[str],
    *,
    ignored: Array | None = None,
    scores: Array | None = None,
    least_score: float = 0.0,
) -> Shapes:
    """Boxes as shapes, labeled with the names of their classes.

    Args:
        boxes: (n, 4) x1, y1, x2, y2 in pixels of the picture.
        labels: (n,) integers from 0.
        class_names: One per class.
        ignored: (n,) bool.
        scores: (n,).
        least_score: Boxes with a smaller score are left out, so that a decoder's hundred does not hide the picture.

    Returns:
        The shapes.
    """
    import numpy as np

    num = len(boxes)
    worth = np.full(num, np.inf) if scores is None else as_array(scores).astype(np.float64)
    kept = [k for k in range(num) if worth[k] >= least_score]
    flags = np.zeros(num, bool) if ignored is None else as_array(ignored).astype(bool)
    numbers, corners = as_array(labels).tolist(), as_array(boxes)
    return Shapes(
        [box_polygon(corners[k]) for k in kept],
        [class_names[numbers[k]] for k in kept],
        [bool(flags[k]) for k in kept],
        [] if scores is None else [float(worth[k]) for k in kept],
    )


def as_array(values: Any) -> NDArray[Any]:
    """An array on the host, of the same type (bfloat16, which NumPy does not know, becomes float32).

    Args:
        values: NumPy's or torch's, on any device, or nested lists.

    Returns:
        The array.
    """
    import numpy as np

    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray((values.float() if values.dtype == torch.bfloat16 else values).numpy())
    return np.asarray(values)
