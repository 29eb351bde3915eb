"""Small networks and batches for the audited criteria."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Maps(nn.Module):
    """One tensor of channels, as TextSnake's."""

    def __init__(self, channels: int = 7) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        maps: Tensor = self.head(self.trunk(image))
        return maps


class Heads(nn.Module):
    """A trunk and named heads, as a dict."""

    def __init__(self, dropout: float = 0.0, **channels: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout))
        self.heads = nn.ModuleDict({name: nn.Conv2d(8, num, 1) for name, num in channels.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.trunk(image)
        return {name: head(features) for name, head in self.heads.items()}


def images(num: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(num, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def batches(num: int = 3, size: int = 4) -> list[dict[str, Tensor]]:
    """Targets of several kinds and dtypes."""
    found = []
    for index in range(num):
        draw = torch.Generator().manual_seed(100 + index)
        mask = torch.rand(size, 8, 8, generator=draw) > 0.4
        found.append({
            "input": images(size, index),
            "label": torch.randint(0, 2, (size, 8, 8), generator=draw),
            "region": torch.randint(0, 2, (size, 8, 8), generator=draw),
            "value": torch.randn(size, 1, 8, 8, generator=draw),
            "box": torch.randn(size, 4, 8, 8, generator=draw),
            "sin": torch.rand(size, 8, 8, generator=draw) * 2 - 1,
            "cos": torch.rand(size, 8, 8, generator=draw) * 2 - 1,
            "radius": torch.rand(size, 8, 8, generator=draw) + 0.5,
            "mask": mask,
            "mask_uint8": mask.to(torch.uint8),
            "mask_int64": mask.long(),
            "mask_float": mask.float(),
            "index": torch.randint(0, 64, (size, 5), generator=draw),
            "slots": torch.tensor([[1, 1, 1, 0, 0]] * size, dtype=torch.uint8),
        })  # fmt: skip
    return found
