"""Corners read off a stack's maps, and all pairs of a top-left with a bottom-right corner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headwise.coders.corners.peaks import Peaks, check_kernel, find_peaks
from headwise.tabular import is_number
from headwise.whole import check_whole


@dataclass(frozen=True)
class Pairing:
    """How corners are found and joined.

    Args:
        num_peaks: Corners of each kind in an image.
        num_detections: Most boxes of an image, the best first.
        kernel_size: Side of the neighborhood whose highest pixel is a corner, odd.
        embedding_threshold: Most distance of the embeddings of two corners of one object.
        no_border: Leave out top-left corners in the first row or column, and bottom-right ones in the last.
        as_published: Keep the authors' plateaus and float32 classes, see `find_peaks`.

    Raises:
        ValueError: If an option is out of its range.
    """

    num_peaks: int = 100
    num_detections: int = 1000
    kernel_size: int = 3
    embedding_threshold: float = 0.5
    no_border: bool = False
    as_published: bool = False

    def __post_init__(self) -> None:
        check_whole("corners", num_peaks=self.num_peaks, num_detections=self.num_detections)
        check_kernel("corners", self.kernel_size)
        if not (is_number(self.embedding_threshold) and self.embedding_threshold >= 0):
            raise ValueError(
                f"corners: embedding_threshold is a number of at least 0, found {self.embedding_threshold!r}."
            )

    def peaks(self, heatmap: Tensor) -> Peaks:
        """The best peaks of a heat map of logits (N, C, H, W)."""
        return find_peaks(heatmap, self.num_peaks, kernel_size=self.kernel_size, as_published=self.as_published)


@dataclass(frozen=True)
class Points:
    """Corners or centers of a batch on the output grid, best first: all (N, K), but ``points`` (N, K, 2) x, y.

    A score is -1 where an image has fewer than K. ``embeddings`` of centers are 0.
    """

    points: Tensor
    scores: Tensor
    labels: Tensor
    embeddings: Tensor
    on_border: Tensor


@dataclass(frozen=True)
class Pairs:
    """Boxes of a batch on the output grid, best first.

    ``boxes`` (N, D, 4); ``scores`` (N, D), -1 where there is no box; ``labels`` (N, D); ``corner_scores`` and
    ``embeddings`` (N, D, 2) of the top-left and the bottom-right corner.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    corner_scores: Tensor
    embeddings: Tensor


def read_points(stack: Mapping[str, Tensor], kind: str, pairing: Pairing) -> Points:
    """The best points of one kind, moved by their offsets.

    Args:
        stack: Maps of one stack.
        kind: ``top_left``, ``bottom_right`` or ``center``.
        pairing: How peaks are found.

    Returns:
        The points in float32 (float64 where the heat map is), their scores being probabilities.
    """
    heatmap = stack[f"{kind}_heatmap"].detach()
    height, width = heatmap.shape[-2:]
    peaks = pairing.peaks(heatmap)
    dtype = torch.promote_types(heatmap.dtype, torch.float32)
    offset = _at(stack[f"{kind}_offset"], peaks.index).to(dtype)
    x, y = peaks.index % width, torch.div(peaks.index, width, rounding_mode="floor")
    embedding = stack.get(f"{kind}_embedding")
    first, last = (x == 0) | (y == 0), (x == width - 1) | (y == height - 1)
    return Points(
        points=torch.stack([x, y], -1) + offset,
        scores=torch.where(peaks.logits > -torch.inf, peaks.logits.to(dtype).sigmoid(), -1.0),
        labels=peaks.labels,
        embeddings=torch.zeros_like(x, dtype=dtype) if embedding is None else _at(embedding, peaks.index)[..., 0],
        on_border=first if kind == "top_left" else last,
    )


def pair(top_left: Points, bottom_right: Points, pairing: Pairing) -> Pairs:
    """The best pairs of corners that may be one object's.

    Both have one class and embeddings no further apart than the threshold, and the bottom-right corner lies neither
    left of nor above the other. A pair scores the mean of its corners.
    """
    first, second = _Side(top_left, 2), _Side(bottom_right, 1)
    fits = (first.labels == second.labels) & (first.scores >= 0) & (second.scores >= 0)
    fits &= (first.embeddings - second.embeddings).abs() <= pairing.embedding_threshold
    fits &= (second.points >= first.points).all(-1)
    if pairing.no_border:
        fits &= ~(first.on_border | second.on_border)
    scores = torch.where(fits, (first.scores + second.scores) / 2, -1.0).flatten(1)
    best = scores.topk(min(pairing.num_detections, scores.shape[1]))
    num_columns = max(1, bottom_right.scores.shape[1])
    rows = torch.div(best.indices, num_columns, rounding_mode="floor"), best.indices % num_columns
    sides = list(zip((top_left, bottom_right), rows, strict=True))
    return Pairs(
        boxes=torch.cat([_take(side.points, row) for side, row in sides], -1),
        scores=best.values,
        labels=top_left.labels.gather(1, rows[0]),
        corner_scores=torch.stack([side.scores.gather(1, row) for side, row in sides], -1),
        embeddings=torch.stack([side.embeddings.gather(1, row) for side, row in sides], -1),
    )


class _Side:
    """Points as a row or a column of the table of pairs."""

    def __init__(self, points: Points, dim: int) -> None:
        self.points, self.scores = points.points.unsqueeze(dim), points.scores.unsqueeze(dim)
        self.labels, self.embeddings = points.labels.unsqueeze(dim), points.embeddings.unsqueeze(dim)
        self.on_border = points.on_border.unsqueeze(dim)


def _at(maps: Tensor, index: Tensor) -> Tensor:
    """Values (N, K, channels) of maps (N, channels, H, W) at y * W + x."""
    flat = maps.detach().flatten(2)
    return flat.gather(2, index.unsqueeze(1).expand(-1, flat.shape[1], -1)).transpose(1, 2)


def _take(points: Tensor, rows: Tensor) -> Tensor:
    return points.gather(1, rows.unsqueeze(-1).expand(-1, -1, points.shape[-1]))
