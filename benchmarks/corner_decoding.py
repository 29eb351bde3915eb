"""Corners to boxes, against the authors' order of operations.

    python benchmarks/corner_decoding.py [--repeats 31] [--threads 2] [--clock wall|cpu]
        [--write benchmarks/results/corner_decoding.md]

A picture and its mirror image: maps of 2 x 80 x 128 x 128 float32, 100 peaks of each kind, 1000 boxes. Three kinds of
maps: ``learned`` (bumps of 20 objects over a quiet ground, as of a trained network), ``noise`` (as of an untrained one)
and ``flat`` (one value: every pixel has to be looked at, the worst case). The authors take any pixel of a flat map, so
its boxes are not compared; else both are checked to find the same boxes first. Runs are interleaved; each ratio is the
median of the ratios of neighboring runs. Memory is the peak of torch's CPU allocator during one call (`measure.py`).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.authors import corner_decoding as authors
from benchmarks.measure import Options, markdown, peak_memory, times_faster
from headwise.coders.corners import decode_corners, encode_corners
from headwise.coders.corners.peaks import find_peaks

NUM_CLASSES, GRID = 80, 128
Stack = dict[str, Tensor]
Found = list[dict[str, Tensor]]


def maps(kind: str, num_images: int = 2, num_objects: int = 20) -> Stack:
    """One stack of outputs."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_images, NUM_CLASSES, GRID, GRID)
    stack = {}
    corner = 400 * torch.rand(num_images, num_objects, 2, generator=generator)
    boxes = torch.cat([corner, corner + 20 + 90 * torch.rand(corner.shape, generator=generator)], 2)
    labels = torch.randint(0, NUM_CLASSES, (num_images, num_objects), generator=generator)
    targets = encode_corners(
        list(boxes), list(labels), image_size=(511, 511), grid_size=(GRID, GRID), num_classes=NUM_CLASSES
    )
    for name in ("top_left", "bottom_right"):
        noise = torch.randn(shape, generator=generator)
        heat = targets[f"{name}_heatmap"].clamp(3e-4, 0.9).logit() + 0.3 * noise
        stack[f"{name}_heatmap"] = {"learned": heat, "noise": noise - 2.19, "flat": torch.full(shape, -2.19)}[kind]
        stack[f"{name}_embedding"] = 0.5 * torch.randn(num_images, 1, GRID, GRID, generator=generator)
        stack[f"{name}_offset"] = torch.rand(num_images, 2, GRID, GRID, generator=generator)
    return stack


def ours(stack: Stack) -> Found:
    return decode_corners({"stacks": [stack]}, image_size=(511, 511))


def check_equal(stack: Stack) -> None:
    """The same boxes, scores and classes; only pairs of equal score may change places."""
    for found, expected in zip(ours(stack), authors.decode(stack), strict=True):
        expected = expected[expected[:, 4] > -1]
        torch.testing.assert_close(found["scores"], expected[:, 4])
        torch.testing.assert_close(found["boxes"].sum(0), (expected[:, :4] * 511 / GRID).sum(0))
        assert found["labels"].sum() == expected[:, 7].sum()


def rows(kind: str, options: Options) -> list[list[str]]:
    stack = maps(kind)
    if kind != "flat":
        check_equal(stack)
    ways: dict[str, Callable[[], object]] = {
        "authors": lambda: authors.decode(stack),
        "decode_corners": lambda: ours(stack),
        "of it: both calls of find_peaks": lambda: [
            find_peaks(stack[name], 100) for name in ("top_left_heatmap", "bottom_right_heatmap")
        ],
        "floor: reading both heat maps once": lambda: [
            stack[name].amax(2) for name in ("top_left_heatmap", "bottom_right_heatmap")
        ],
    }
    for run in ways.values():
        run()
    seconds = options.seconds(ways)
    return [
        [
            kind,
            name,
            f"{1e3 * statistics.median(taken):.2f}",
            f"{1e3 * min(taken):.2f}",
            f"{times_faster(seconds['authors'], taken):.1f}",
            f"{peak_memory(ways[name]) / 2**20:.1f}",
        ]
        for name, taken in seconds.items()
    ]


def main() -> None:
    options = Options.read(__doc__, repeats=31)
    found = [row for kind in ("learned", "noise", "flat") for row in rows(kind, options)]
    options.publish(
        "Corners to boxes",
        f"Maps 2 x {NUM_CLASSES} x {GRID} x {GRID} float32, 100 peaks, 1000 boxes; boxes equal.\n\n"
        + markdown(["maps", "way", "median ms", "least ms", "times faster", "extra MiB"], found),
    )


if __name__ == "__main__":
    main()
