"""The networks whose steps are timed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50
from torchvision.ops import FeaturePyramidNetwork

import headwise as hw
from benchmarks.gpu.bench import Bench
from headwise import losses

NUM_HEADS = 8


class ManyHeads(nn.Module):
    """A ResNet (of depth 0: four convolutions), a pyramid merged to one map of stride 4, and heads that share it."""

    def __init__(self, depth: int, num_heads: int = NUM_HEADS) -> None:
        super().__init__()
        self.stem, self.stages, widths = trunk(depth)
        self.pyramid = FeaturePyramidNetwork(widths, 128 if depth else 8)
        self.heads = nn.ModuleDict({f"head{i}": head(128 if depth else 8) for i in range(num_heads)})

    def features(self, image: Tensor) -> Tensor:
        x, levels = self.stem(image), {}
        for number, stage in enumerate(self.stages):
            x = levels[str(number)] = stage(x)
        found = list(self.pyramid(levels).values())
        merged: Tensor = found[0]
        for level in found[1:]:
            merged = merged + F.interpolate(level, size=merged.shape[-2:])
        return merged

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.features(image)
        return {name: each(features) for name, each in self.heads.items()}


def trunk(depth: int) -> tuple[nn.Module, nn.ModuleList, list[int]]:
    """A stem of stride 4, four stages, and their widths."""
    if depth == 0:
        widths = [8, 8, 16, 16]
        strides = [1, 2, 2, 2]
        stages = [
            nn.Conv2d(before, width, 3, stride, padding=1)
            for before, width, stride in zip([8, *widths], widths, strides, strict=False)
        ]
        return nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ModuleList(stages), widths
    body, width = (resnet50(), 256) if depth == 50 else (resnet18(), 64)
    stem = nn.Sequential(body.conv1, body.bn1, body.relu, body.maxpool)
    stages = nn.ModuleList([body.layer1, body.layer2, body.layer3, body.layer4])
    return stem, stages, [width, 2 * width, 4 * width, 8 * width]


def head(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, width // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(width // 2, 4, 1))


def head_terms(compile: bool = False) -> hw.Criterion:
    """A dense loss a head."""
    names = [f"head{i}" for i in range(NUM_HEADS)]
    return hw.Criterion(
        [hw.Term(name, losses.smooth_l1, output=name, target=name, weight=0.5) for name in names], compile=compile
    )


def plain_heads(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """The same by hand."""
    return torch.stack([0.5 * F.smooth_l1_loss(outputs[name].float(), targets[name]) for name in targets]).sum()


def heads_batch(bench: Bench, num_images: int, side: int) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator(bench.device).manual_seed(0)
    image = torch.randn(num_images, 3, side, side, device=bench.device, generator=generator)
    shape = (num_images, 4, side // 4, side // 4)
    targets = {f"head{i}": torch.randn(shape, device=bench.device, generator=generator) for i in range(NUM_HEADS)}
    return image, targets
