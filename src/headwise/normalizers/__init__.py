"""Normalizers: pure functions of target and mask that return what divides a sum of losses.

They never need an output, so that denominators can be totaled over micro-batches and ranks before any
forward pass. Elements are counted in int64 and the count is returned as float32, which is exact up to 2^24
(sixteen masks of 1024 x 1024 pixels) and right to 6e-8 beyond; what a shape alone tells is a Python number.
"""

from headwise.normalizers.corners import peaks, published_chunks, published_objects, published_peaks
from headwise.normalizers.counts import (
    Normalizer,
    boxes,
    count,
    elements,
    foreground,
    images,
    labeled,
    mined,
    objects,
    one,
    positive,
    weight_sum,
)

__all__ = [
    "count",
    "elements",
    "positive",
    "labeled",
    "mined",
    "one",
    "images",
    "boxes",
    "objects",
    "peaks",
    "published_peaks",
    "published_objects",
    "published_chunks",
    "weight_sum",
    "foreground",
    "Normalizer",
]
