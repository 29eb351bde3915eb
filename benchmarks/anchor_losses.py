"""RetinaNet's whole loss, forward and backward, against its authors' formulation and torchvision's.

    python benchmarks/anchor_losses.py [--repeats 15] [--threads 2] [--clock wall|cpu]
        [--write benchmarks/results/anchor_losses.md]

4 images of 67,995 anchors, 20 classes, float32; labels and deltas of random boxes. Ours are checked to be equal first:
`as_published=True` to the authors' total and gradients, the default to torchvision's. Runs are interleaved; each ratio
is the median of the ratios of neighboring runs. On a machine that others use, `--threads 1 --clock cpu` counts
processor time instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import headwise as hw
from benchmarks.authors.retinanet import authors_loss, torchvision_loss
from benchmarks.measure import Options, markdown, milliseconds, peak_memory, times_faster
from headwise.coders import anchors as coder

NUM_IMAGES, NUM_CLASSES, SIDE = 4, 20, 600

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
Total = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def batch(num_images: int = NUM_IMAGES, num_classes: int = NUM_CLASSES, side: int = SIDE) -> Batch:
    """Random outputs near the prior; labels and deltas of eight boxes an image, as they are encoded."""
    generator = torch.Generator().manual_seed(0)
    boxes, labels = [], []
    for _ in range(num_images):
        corner = side * 2 / 3 * torch.rand(8, 2, generator=generator)
        boxes.append(torch.cat([corner, corner + 30 + 170 * torch.rand(8, 2, generator=generator)], 1))
        labels.append(torch.randint(0, num_classes, (8,), generator=generator))
    levels = coder.encode_boxes(boxes, labels, coder.centered_anchors((side, side)))["levels"]
    label, target = (torch.cat([level[key] for level in levels], 1) for key in ("label", "deltas"))
    logits = 1.5 * torch.randn(*label.shape, num_classes, generator=generator) - 4
    deltas = torch.randn(*label.shape, 4, generator=generator)
    return logits.requires_grad_(), deltas.requires_grad_(), label, target


def preset(as_published: bool, compile: bool) -> Total:
    criterion = hw.presets.retinanet(as_published=as_published, compile=compile)

    def total(logits: Tensor, deltas: Tensor, label: Tensor, target: Tensor) -> Tensor:
        outputs = {"levels": [{"logits": logits, "deltas": deltas}]}
        return criterion(outputs, {"levels": [{"label": label, "deltas": target}]}).total

    return total


def step(total: Total, data: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
    value = total(*data)
    return value.detach(), torch.autograd.grad(value, data[:2])


def check_equal(found: Total, expected: Total, data: Batch) -> None:
    (value, gradients), (known, known_gradients) = step(found, data), step(expected, data)
    # A plain float32 sum of five million losses is itself off by some 1e-5.
    torch.testing.assert_close(value, known, rtol=2e-5, atol=0)
    for ours, theirs in zip(gradients, known_gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def table(ways: dict[str, Total], data: Batch, options: Options) -> str:
    runs = {name: partial(step, total, data) for name, total in ways.items()}
    seconds = options.seconds(runs)
    rows = []
    for name, taken in seconds.items():
        faster = [f"{times_faster(seconds[other], taken):.2f}" for other in ("authors", "torchvision")]
        rows.append([name, *milliseconds(taken), *faster, f"{peak_memory(runs[name]) / 2**20:.1f}"])
    return markdown(
        ["way", "median ms", "least ms", "times the authors' speed", "times torchvision's", "extra MiB"], rows
    )


def main() -> None:
    options = Options.read(__doc__, repeats=15)
    data = batch()
    ways: dict[str, Total] = {
        "authors": authors_loss,
        "torchvision": torchvision_loss,
        "presets.retinanet()": preset(as_published=False, compile=False),
        "presets.retinanet(as_published=True)": preset(as_published=True, compile=False),
        "presets.retinanet(compile=True)": preset(as_published=False, compile=True),
        "presets.retinanet(as_published=True, compile=True)": preset(as_published=True, compile=True),
    }
    for name, total in ways.items():
        check_equal(total, authors_loss if "published" in name or name == "authors" else torchvision_loss, data)
    label = data[2]
    options.publish(
        "RetinaNet's loss, forward and backward",
        f"Logits {tuple(data[0].shape)} float32, {int((label > 0).sum())} positive and {int((label < 0).sum())} "
        f"ignored anchors; values equal to 2e-5, gradients to 1e-5.\n\n{table(ways, data, options)}",
    )


if __name__ == "__main__":
    main()
