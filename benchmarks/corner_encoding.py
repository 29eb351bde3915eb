"""CornerNet's targets of a batch, against bumps drawn one by one with NumPy, as its authors do.

    python benchmarks/corner_encoding.py [--repeats 51] [--threads 1] [--clock wall|cpu] [--write FILE]

30 objects an image, 80 classes, maps of 128 x 128, least overlap 0.3. Both are checked to be equal first. Runs are
interleaved, each ratio is the median of the ratios of neighboring runs. One thread, as in a `DataLoader` worker. The
pages of fresh zeros are made when they are first touched, by both ways alike: the second figure includes reading all
maps once. The floor of fresh maps is to make those pages alone: zeros of which one number is written on every page that
a bump lies on.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.authors import corner_encoding as authors
from benchmarks.measure import Options, markdown, times_faster
from headwise.coders.corners import encode_corners

IMAGE, GRID, NUM_CLASSES, NUM_OBJECTS, OVERLAP = 511, 128, 80, 30, 0.3
Encode = Callable[[], dict[str, Tensor]]


def batch(num_images: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Boxes of COCO's sizes: sides log-uniform from 10 to 400 pixels."""
    generator = np.random.default_rng(0)
    boxes, labels = [], []
    for _ in range(num_images):
        sides = np.exp(generator.uniform(np.log(10), np.log(400), (NUM_OBJECTS, 2)))
        first = generator.uniform(0, IMAGE - 1 - sides)
        boxes.append(np.concatenate([first, first + sides], 1).astype(np.float32))
        labels.append(generator.integers(0, NUM_CLASSES, NUM_OBJECTS))
    return boxes, labels


def ways(num_images: int) -> dict[str, Encode]:
    boxes, labels = batch(num_images)
    options = {"image_size": (IMAGE, IMAGE), "grid_size": (GRID, GRID), "num_classes": NUM_CLASSES}
    encode = partial(encode_corners, boxes, labels, **options, min_overlap=OVERLAP)
    earlier = encode()
    pages = {name: touched_pages(maps) for name, maps in earlier.items() if name.endswith("heatmap")}
    return {
        "authors": lambda: authors.encode(boxes, labels, IMAGE, GRID, NUM_CLASSES, OVERLAP),
        "encode_corners": encode,
        "encode_corners(out=earlier)": lambda: encode(out=earlier),
        FLOOR: lambda: {name: fresh_pages(earlier[name], starts) for name, starts in pages.items()},
    }


FLOOR = "fresh pages alone"
PAGE = 4096 // 4  # numbers


def touched_pages(maps: Tensor) -> np.ndarray:
    """Where the pages begin that hold a number other than 0."""
    return np.unique(np.flatnonzero(maps.numpy()) // PAGE) * PAGE


def fresh_pages(like: Tensor, starts: np.ndarray) -> Tensor:
    maps = np.zeros(like.shape, np.float32)
    maps.reshape(-1)[starts] = 0
    return torch.from_numpy(maps)


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def read(encode: Encode) -> float:
    return sum(float(tensor.sum()) for tensor in encode().values())


def rows(num_images: int, options: Options) -> list[list[str]]:
    each = ways(num_images)
    expected = each["authors"]()
    for name, encode in each.items():
        if name != FLOOR:
            check_equal(encode(), expected)
    measured = options.seconds(each), options.seconds({name: partial(read, encode) for name, encode in each.items()})
    found = []
    for name in each:
        figures = [str(num_images), name]
        for seconds in measured:
            figures.append(f"{1e3 * statistics.median(seconds[name]) / num_images:.2f}")
            figures.append(f"{times_faster(seconds['authors'], seconds[name]):.2f}")
        found.append(figures)
    return found


def main() -> None:
    options = Options.read(__doc__, repeats=51, threads=1)
    size = 2 * NUM_CLASSES * GRID * GRID * 4
    found = [row for num_images in (1, 4, 16) for row in rows(num_images, options)]
    options.publish(
        "CornerNet's targets",
        f"{NUM_OBJECTS} objects an image, {NUM_CLASSES} x {GRID} x {GRID}, two corners: {size / 2**20:.1f} MiB; "
        "equal to 1e-6.\n\n"
        + markdown(
            ["images a call", "way", "ms an image", "times faster", "and read once (ms)", "times faster"], found
        ),
    )


if __name__ == "__main__":
    main()
