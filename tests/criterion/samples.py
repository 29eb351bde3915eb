"""Small criteria and data that several tests share."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import headwise as hw
from headwise import losses, normalizers

NAMES = ("region", "line", "radius", "sin", "cos")


def five_terms(**weights: Any) -> list[hw.Term]:
    """TextSnake's shape of problem: five terms on seven channels, two of which share theirs."""
    rows: list[tuple[str, Any, Any, str, str, str]] = [
        ("region", losses.hard_negative_cross_entropy, normalizers.mined(ratio=3), "maps[:, 0:2]", "region", "valid"),
        ("line", losses.cross_entropy, normalizers.count, "maps[:, 2:4]", "line", "valid & region"),
        ("radius", losses.relative_smooth_l1, normalizers.positive, "maps[:, 6]", "radius", "valid & line"),
        ("sin", partial(losses.direction_smooth_l1, component=0), normalizers.count, "maps[:, 4:6]", "sin", "line"),
        ("cos", partial(losses.direction_smooth_l1, component=1), normalizers.count, "maps[:, 4:6]", "cos", "line"),
    ]
    return [
        hw.Term(name, loss, count, output=output, target=target, mask=mask, weight=weights.get(name, 1.0))
        for name, loss, count, output, target, mask in rows
    ]


def five_targets(num: int = 2, size: int = 12, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shape = (num, size, size)
    region = torch.rand(shape, generator=draw) > 0.7
    line = region & (torch.rand(shape, generator=draw) > 0.4)
    angle = torch.rand(shape, generator=draw, dtype=dtype) * 6.28
    return {
        "region": region,
        "line": line,
        "radius": (1 + 9 * torch.rand(shape, generator=draw, dtype=dtype)) * line,
        "sin": angle.sin() * line,
        "cos": angle.cos() * line,
        "valid": torch.rand(shape, generator=draw) > 0.1,
    }


def five_maps(num: int = 2, size: int = 12, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn((num, 7, size, size), generator=draw, dtype=dtype).requires_grad_()


class Net(nn.Module):
    """A trunk and one head of seven channels."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.trunk = nn.Conv2d(3, 8, 3, padding=1)
            self.head = nn.Conv2d(8, 7, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"maps": self.head(torch.relu(self.trunk(image)))}


def images(num: int = 2, size: int = 12, seed: int = 2) -> Tensor:
    return torch.randn((num, 3, size, size), generator=torch.Generator().manual_seed(seed))


def gradients(network: nn.Module) -> list[Tensor]:
    found = []
    for parameter in network.parameters():
        assert parameter.grad is not None, "a parameter has no gradient"
        found.append(parameter.grad.clone())
    return found


def squared(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """A loss written in plain torch, as a user would."""
    error = (output - target).square()
    return (error if mask is None else torch.where(mask, error, 0.0)).sum()
