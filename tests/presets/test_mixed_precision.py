"""Every preset in bf16 and fp16: finite at logits of +-100, and the gradient's direction is float32's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import headwise as hw
from headwise.structure import leaves, mapped_by_path
from tests.presets.samples import PRESETS, sample

HALVES = (torch.bfloat16, torch.float16)
each_preset = pytest.mark.parametrize("name", PRESETS)
each_half = pytest.mark.parametrize("half", HALVES, ids=str)


def gradient(criterion: hw.Criterion, outputs: Any, targets: Any, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """Of the total at all outputs, as float32, with a loss scale divided out again."""
    held = mapped_by_path(outputs, lambda _, each: each.detach().to(dtype).requires_grad_())
    total = criterion(held, targets).total
    assert total.isfinite()
    assert total.dtype == torch.float32
    (total * scale).backward()
    return torch.cat([each.grad.float().flatten() for _, each in leaves(held) if each.grad is not None]) / scale


def filled(outputs: Any, value: float) -> Any:
    return mapped_by_path(outputs, lambda _, each: torch.full_like(each, value))


def apart(found: Tensor, wanted: Tensor) -> float:
    """Distance of two directions: that of the unit vectors."""
    return float((found / found.norm() - wanted / wanted.norm()).norm())


@each_half
@each_preset
@pytest.mark.parametrize("size", [None, 100.0], ids=["drawn", "at 100"])
def test_direction_is_that_of_float32(name, half, size):
    criterion, outputs, targets = sample(name, 4, empty=3, dtype=torch.float32)
    # Both precisions see the same numbers: what is compared is the arithmetic.
    outputs = mapped_by_path(outputs, lambda _, each: each.to(half).float() if size is None else each.sign() * size)
    wanted = gradient(criterion, outputs, targets, torch.float32)
    found = gradient(criterion, outputs, targets, half, scale=2.0**8)
    assert wanted.isfinite().all()
    assert found.isfinite().all()
    assert wanted.any()
    assert apart(found, wanted) <= 1e-2


@each_preset
def test_worst_mistakes_are_finite(name):
    """Every sign against its target: where log, exp and division end in half precision."""
    criterion, outputs, targets = sample(name, 4, empty=2, dtype=torch.float32)
    for half in HALVES:
        for sign in (100.0, -100.0, 0.0):
            assert gradient(criterion, filled(outputs, sign), targets, half, scale=2.0**4).isfinite().all()


def test_the_check_can_fail():
    _, outputs, targets = sample("textsnake", 4, dtype=torch.float32)
    published = hw.presets.textsnake(as_published=True)  # divides by the norm of (sin, cos) before it selects (T2)
    with pytest.raises(AssertionError, match="isfinite"):
        gradient(published, filled(outputs, 0.0), targets, torch.float16)


class Pointwise(nn.Module):
    """A 1 x 1 layer a level from images to every output, which autocast runs in half precision."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for path, each in leaves(outputs):
                self.layers[path.replace(".", "/")] = nn.Linear(6, each.shape[-1])

    def forward(self, outputs: Any) -> Any:
        return mapped_by_path(outputs, self._one)

    def _one(self, path: str, like: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(len(path))
        features = torch.randn((*like.shape[:-1], 6), generator=draw)
        layer: nn.Module = self.layers[path.replace(".", "/")]
        result: Tensor = layer(features)
        return result


def trained(name: str, half: torch.dtype | None) -> Tensor:
    """The gradient of a step under autocast, fp16 with a GradScaler that finds its scale."""
    criterion, outputs, targets = sample(name, 4, empty=3, dtype=torch.float32)
    network = Pointwise(outputs)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=half == torch.float16)
    for _ in range(12):
        optimizer.zero_grad()
        with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
            total = criterion(network(outputs), targets).total
        scaler.scale(total).backward()
        scaler.unscale_(optimizer)
        found = torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None])
        scaler.step(optimizer)
        scaler.update()
        if found.isfinite().all():
            return found
    raise AssertionError("no scale made the gradient finite")


@each_half
@each_preset
def test_a_step_under_autocast(name, half):
    wanted, found = trained(name, None), trained(name, half)
    cosine = torch.nn.functional.cosine_similarity(found, wanted, dim=0)
    assert 1 - float(cosine) <= 1e-2
