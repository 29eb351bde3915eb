"""The whole losses of published systems: outputs and targets as they are in training, ours and the authors'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import headwise as hw
from benchmarks.anchor_losses import batch as anchor_batch
from benchmarks.authors.corners import cornernet_loss
from benchmarks.authors.retinanet import authors_loss, torchvision_loss
from benchmarks.authors.textsnake import textsnake_loss
from benchmarks.gpu.bench import Bench
from benchmarks.losses import batch as text_batch
from headwise.coders.corners import encode_corners
from headwise.structure import leaves, mapped


@dataclass(frozen=True)
class System:
    """A preset with a batch, and other formulations of its loss by name; the first is the authors'."""

    name: str
    preset: Callable[..., hw.Criterion]
    outputs: Any
    targets: Any
    peers: dict[str, Callable[[], Tensor]]


def textsnake(bench: Bench) -> System:
    maps, targets = text_batch(*bench.pick((16, 512), (2, 96), (1, 96)))
    maps, targets = maps.to(bench.device).requires_grad_(), moved(targets, bench.device)

    def authors() -> Tensor:
        return torch.stack(
            [torch.as_tensor(value, device=maps.device) for value in textsnake_loss(maps, targets)]
        ).sum()

    return System("textsnake", hw.presets.textsnake, {"maps": maps}, targets, {"authors": authors})


def cornernet(bench: Bench, num_stacks: int = 2, grid: int | None = None) -> System:
    num_images, side, num_classes = bench.pick((16, 128, 80), (2, 32, 8), (1, 16, 3))
    grid = grid or side
    targets = corner_targets(bench, num_images, grid, num_classes)
    generator = torch.Generator(bench.device).manual_seed(0)
    channels = {"heatmap": num_classes, "embedding": 1, "offset": 2}
    stacks = [
        {
            f"{corner}_{kind}": torch.randn(num_images, num, grid, grid, device=bench.device, generator=generator)
            .sub_(2.19 if kind == "heatmap" else 0.0)
            .requires_grad_()
            for corner in ("top_left", "bottom_right")
            for kind, num in channels.items()
        }
        for _ in range(num_stacks)
    ]
    peers = {"authors": lambda: cornernet_loss(stacks, targets)}
    return System(
        "cornernet", lambda **options: hw.presets.cornernet(num_stacks, **options), {"stacks": stacks}, targets, peers
    )


def corner_targets(bench: Bench, num_images: int, grid: int, num_classes: int) -> dict[str, Tensor]:
    """Thirty objects an image, encoded on the CPU as in a worker and moved to the device."""
    boxes, labels = drawn_boxes(num_images, 4 * grid, 30, num_classes)
    size: dict[str, Any] = {"image_size": (4 * grid, 4 * grid), "grid_size": (grid, grid), "num_classes": num_classes}
    return moved(encode_corners(boxes, labels, **size), bench.device)


def drawn_boxes(num_images: int, side: int, num: int, num_classes: int) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes from a fiftieth to most of a picture, and their labels."""
    generator = torch.Generator().manual_seed(0)
    boxes, labels = [], []
    for _ in range(num_images):
        sides = side * torch.exp(torch.empty(num, 2).uniform_(-3.9, -0.25, generator=generator))
        first = torch.rand(num, 2, generator=generator) * (side - 1 - sides)
        boxes.append(torch.cat([first, first + sides], 1))
        labels.append(torch.randint(0, num_classes, (num,), generator=generator))
    return boxes, labels


def retinanet(bench: Bench) -> System:
    data = anchor_batch(*bench.pick((8, 80, 600), (2, 8, 96), (1, 3, 96)))
    logits, deltas = (each.detach().to(bench.device).requires_grad_() for each in data[:2])
    label, target = (each.to(bench.device) for each in data[2:])
    peers = {
        "authors": lambda: authors_loss(logits, deltas, label, target),
        "torchvision": lambda: torchvision_loss(logits, deltas, label, target),
    }
    outputs, targets = (
        {"levels": [{"logits": logits, "deltas": deltas}]},
        {"levels": [{"label": label, "deltas": target}]},
    )
    return System("retinanet", hw.presets.retinanet, outputs, targets, peers)


SYSTEMS = (cornernet, retinanet, textsnake)


def moved(nested: Any, device: torch.device) -> Any:
    """The same on another device."""
    return mapped(nested, lambda each: each.to(device))


def num_bytes(nested: Any) -> int:
    """Of all tensors."""
    return sum(each.nbytes for _, each in leaves(nested))


def differentiable(outputs: Any) -> list[Tensor]:
    """The outputs that take a gradient."""
    return [each for _, each in leaves(outputs) if each.requires_grad]
