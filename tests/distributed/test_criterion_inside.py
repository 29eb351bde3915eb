"""Modules that hold their criterion, and return its breakdown, under what wraps modules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

import headwise as hw
from headwise import losses
from tests.distributed.ranks import on_ranks


class WithLosses(nn.Module):
    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network, self.idle = nn.Linear(3, 4), nn.Linear(3, 4)
        self.criterion = hw.Criterion(
            [
                hw.Term("near", losses.squared_error, output="boxes[:, :2]", target="boxes[:, :2]"),
                hw.Term("far", losses.smooth_l1, output="boxes[:, 2:]", target="boxes[:, 2:]", weight=weight),
            ]
        )

    def forward(self, picture: Tensor, boxes: Tensor) -> hw.Breakdown:
        found: hw.Breakdown = self.criterion({"boxes": self.network(picture)}, {"boxes": boxes})
        return found


class TotalAlone(WithLosses):
    def forward(self, picture: Tensor, boxes: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(picture, boxes).total


def batch(rank: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rank)
    return torch.randn(5, 3, generator=draw), torch.randn(5, 4, generator=draw)


def trained_by_ddp(rank: int, world: int) -> tuple[Tensor, Tensor]:
    module = WithLosses()
    wrapped = nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)
    for _ in range(2):
        module.zero_grad()
        wrapped(*batch(rank)).total.backward()
    alone = WithLosses()
    alone(*batch(rank)).total.backward()
    mean = alone.network.weight.grad
    assert mean is not None
    assert module.network.weight.grad is not None
    dist.all_reduce(mean)
    return module.network.weight.grad, mean / world


def test_ddp_finds_what_a_breakdown_was_computed_from():
    """Torch looks for tensors in lists, dicts and dataclasses; elsewhere it found none, and took all to be unused."""
    for found, mean in on_ranks(trained_by_ddp):
        torch.testing.assert_close(found, mean)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fabric_returns_a_breakdown_as_it_is(precision):
    fabric = pytest.importorskip("lightning_fabric").Fabric(accelerator="cpu", precision=precision)
    module, alone = WithLosses(), TotalAlone()
    with hw.Ledger(module.criterion) as ledger:
        breakdown = fabric.setup(module)(*batch())
        fabric.backward(breakdown.total)
        assert ledger.read().balanced
    assert breakdown.record is not None
    assert list(breakdown) == ["near", "far"]
    total = fabric.setup(alone)(*batch())
    fabric.backward(total)
    assert breakdown.total == total
    for found, plain in zip(module.network.parameters(), alone.network.parameters(), strict=True):
        assert found.grad is not None
        torch.testing.assert_close(found.grad, plain.grad, rtol=0, atol=0)


def test_a_breakdown_without_a_graph_is_copied():
    with torch.no_grad():
        breakdown = WithLosses()(*batch())
    twin = copy.deepcopy(breakdown)
    assert twin.total == breakdown.total
    assert twin.total is not breakdown.total
    assert twin["far"].value == breakdown["far"].value
    assert twin["far"].value is not breakdown["far"].value
