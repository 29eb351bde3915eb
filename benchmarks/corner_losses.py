"""CornerNet's whole loss, forward and backward, against the formulation of its authors.

    python benchmarks/corner_losses.py [--repeats 15] [--threads 2] [--clock wall|cpu] [--write FILE]

Two stacks of heat maps of 4 x 80 x 128 x 128 float32 for two corners, embeddings and offsets, 30 objects an image. The
published preset is checked to be equal to the authors' formulation in value and gradients first, and the default's
heat map and offset terms to the published ones. Runs are interleaved; each ratio is the median of the ratios of
neighboring runs. Memory is the peak of torch's CPU allocator during one forward and backward pass; the gradients of
the predictions are in it, which are as large as the predictions (see `measure.py`). On a machine that others use,
`--threads 1 --clock cpu` counts processor time instead.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import headwise as hw
from benchmarks.authors.corners import cornernet_loss
from benchmarks.corner_encoding import GRID, IMAGE, NUM_CLASSES, OVERLAP
from benchmarks.corner_encoding import batch as boxes_of
from benchmarks.measure import Options, markdown, milliseconds, peak_memory, times_faster
from headwise.coders.corners import encode_corners

NUM_IMAGES, NUM_STACKS = 4, 2
CHANNELS = {"heatmap": NUM_CLASSES, "embedding": 1, "offset": 2}
Stacks = list[dict[str, Tensor]]
Total = Callable[[], Tensor]


def batch() -> tuple[Stacks, dict[str, Tensor]]:
    """Predictions as early in training: heat maps around a bias of -2.19."""
    generator = torch.Generator().manual_seed(0)
    stacks: Stacks = [{} for _ in range(NUM_STACKS)]
    for stack in stacks:
        for corner in ("top_left", "bottom_right"):
            for kind, channels in CHANNELS.items():
                values = torch.randn(NUM_IMAGES, channels, GRID, GRID, generator=generator)
                values = values - 2.19 if kind == "heatmap" else values
                stack[f"{corner}_{kind}"] = values.requires_grad_()
    boxes, labels = boxes_of(NUM_IMAGES)
    size: dict[str, Any] = {"image_size": (IMAGE, IMAGE), "grid_size": (GRID, GRID), "num_classes": NUM_CLASSES}
    return stacks, encode_corners(boxes, labels, **size, min_overlap=OVERLAP)


def preset(stacks: Stacks, targets: dict[str, Tensor], as_published: bool, compile: bool) -> Total:
    criterion = hw.presets.cornernet(NUM_STACKS, as_published=as_published, compile=compile)
    return lambda: criterion({"stacks": stacks}, targets).total


def step(total: Total, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    value = total()
    return value.detach(), *torch.autograd.grad(value, leaves)


def check_equal(stacks: Stacks, targets: dict[str, Tensor], ways: dict[str, Total], leaves: list[Tensor]) -> None:
    """The published presets equal the authors' formulation; the default differs by what its card says."""
    expected = step(ways["authors"], leaves)
    for name, total in ways.items():
        if "as_published" in name:
            for found, wanted in zip(step(total, leaves), expected, strict=True):
                assert (found - wanted).norm() <= 1e-5 * wanted.norm(), name
    ours, theirs = (
        hw.presets.cornernet(NUM_STACKS, as_published=published)({"stacks": stacks}, targets)
        for published in (False, True)
    )
    for corner in ("top_left", "bottom_right"):
        for kind in ("heatmap", "offset"):
            name = f"{corner}_{kind}"
            torch.testing.assert_close(ours[name].value, theirs[name].value, rtol=1e-5, atol=0)


def table(ways: dict[str, Total], leaves: list[Tensor], options: Options) -> str:
    runs = {name: partial(step, total, leaves) for name, total in ways.items()}
    seconds = options.seconds(runs)
    size = sum(leaf.nbytes for leaf in leaves)
    rows = []
    for name, taken in seconds.items():
        memory = peak_memory(runs[name])
        faster = f"{times_faster(seconds['authors'], taken):.2f}"
        rows.append([name, *milliseconds(taken), faster, f"{memory / 2**20:.1f}", f"{memory / size:.3f}"])
    return markdown(["way", "median ms", "least ms", "times faster", "extra MiB", "of the predictions"], rows)


def copy_seconds(leaves: list[Tensor]) -> float:
    """Of reading the predictions and writing as much: the least that a pass with gradients takes."""
    into = [torch.empty_like(leaf) for leaf in leaves]
    taken = []
    for _ in range(9):
        start = time.perf_counter()
        for leaf, buffer in zip(leaves, into, strict=True):
            buffer.copy_(leaf.detach())
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    options = Options.read(__doc__, repeats=15)
    stacks, targets = batch()
    leaves = [leaf for stack in stacks for leaf in stack.values()]
    ways: dict[str, Total] = {
        "authors": lambda: cornernet_loss(stacks, targets),
        "presets.cornernet()": preset(stacks, targets, as_published=False, compile=False),
        "presets.cornernet(as_published=True)": preset(stacks, targets, as_published=True, compile=False),
        "presets.cornernet(compile=True)": preset(stacks, targets, as_published=False, compile=True),
        "presets.cornernet(as_published=True, compile=True)": preset(stacks, targets, as_published=True, compile=True),
    }
    check_equal(stacks, targets, ways, leaves)
    size = sum(leaf.nbytes for leaf in leaves) / 2**20
    options.publish(
        "CornerNet's loss, forward and backward",
        f"{NUM_STACKS} stacks of {NUM_IMAGES} x {NUM_CLASSES} x {GRID} x {GRID}, predictions {size:.1f} MiB; values "
        f"and gradients equal to 1e-5. Copying the predictions once takes {1e3 * copy_seconds(leaves):.1f} ms.\n\n"
        f"{table(ways, leaves, options)}",
    )


if __name__ == "__main__":
    main()
