"""Detected boxes, as decoders return them and evaluations and files of results take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

_KEYS = ("boxes", "scores", "labels")


class Detections(NamedTuple):
    """Of one picture: boxes (n, 4) and scores (n,) float64, labels (n,) int64."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, found: Mapping[str, Any], what: str) -> Detections:
        """Read and check what was detected on one picture.

        Args:
            found: ``boxes`` (n, 4) x1, y1, x2, y2, ``scores`` (n,) and ``labels`` (n,), as arrays, tensors or lists.
            what: how the error calls it.

        Returns:
            The same as arrays.

        Raises:
            ValueError: a part lacks or has another shape, labels are no integers, or a value is not finite or a box of
                negative width or height.
        """
        if lacking := [key for key in _KEYS if key not in found]:
            raise ValueError(f"{what} lack {', '.join(lacking)}; found {', '.join(map(str, found))}.")
        boxes, scores, labels = (torch.as_tensor(found[key]).detach().cpu() for key in _KEYS)
        boxes = boxes.reshape(-1, 4) if boxes.numel() == 0 else boxes
        if boxes.shape != (len(scores), 4) or not scores.shape == labels.shape == boxes.shape[:1]:
            shapes = f"boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)}, labels {tuple(labels.shape)}"
            raise ValueError(f"{what} must be boxes (n, 4), scores (n,) and labels (n,), found {shapes}.")
        if len(labels) and (labels.is_floating_point() or labels.dtype == torch.bool):
            raise ValueError(f"{what} need integer labels, found {labels.dtype}. Convert them.")
        edges = boxes.double().numpy()
        if not (np.isfinite(edges).all() and scores.isfinite().all() and (edges[:, 2:] >= edges[:, :2]).all()):
            raise ValueError(
                f"{what} must be finite boxes x1 <= x2, y1 <= y2 with finite scores. Mend the decoder, or remove those "
                "that are not."
            )
        return cls(edges, scores.double().numpy(), labels.long().numpy())
