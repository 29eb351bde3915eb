"""Attribution on every step of two-rank training leaves it as it is, to the bit; a static graph is refused."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from headwise.attribution.audit.sum_check import check_sum
from headwise.attribution.jacobians.effect import effect
from headwise.attribution.jacobians.jacobian import jacobian
from headwise.attribution.jacobians.sampler import JacobianSampler
from headwise.attribution.tracing.trace import trace
from tests.attribution.brute import rows

STEPS = 3


class TwoHeads(nn.Module):
    """A trunk with BatchNorm and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8))
        self.a, self.b = nn.Linear(8, 3), nn.Linear(8, 1)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"a": self.a(features), "b": self.b(features)}


def _losses(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"a": outputs["a"].square().mean(), "b": (outputs["b"] - 1).abs().mean()}


def _attribute(model: nn.Module, sampler: JacobianSampler, x: Tensor, outputs: Any, losses: dict[str, Tensor]) -> None:
    table = jacobian(losses, model)
    assert table.scope == "local"
    for loss, row in rows(losses, model).items():
        for name, gradient in row.items():
            assert trace(losses, model, outputs).reaches(loss, name) == (gradient is not None), (loss, name)
            expected = 0.0 if gradient is None else float(gradient.norm())
            assert table.norm(loss, name) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert trace(losses, model, outputs).channels("a", "b").indices == ()
    sampler.step(losses)
    assert effect(lambda: _losses(model(x)), model).method == "forward"
    assert check_sum(lambda: _losses(model(x)), model).passed


def _train(rank: int, attribute: bool, options: dict[str, bool]) -> list[Tensor]:
    torch.manual_seed(0)
    core = TwoHeads()
    if not options.get("find_unused_parameters"):
        core.unused.requires_grad_(False)
    model = DistributedDataParallel(core, **options)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sampler = JacobianSampler(model, every=1)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(STEPS):
        x = torch.randn(6, 4, generator=generator)
        outputs = model(x)
        losses = _losses(outputs)
        if attribute:
            _attribute(model, sampler, x, outputs, losses)
        optimizer.zero_grad()
        (losses["a"] + losses["b"]).backward()
        optimizer.step()
    assert not attribute or set(sampler.rows) == {"a", "b"}
    return [*(p.detach() for p in core.parameters()), *core.buffers()]


def _across_ranks(tensor: Tensor) -> list[Tensor]:
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(found, tensor.contiguous())
    return found


def _worker(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        for options in ({}, {"find_unused_parameters": True}, {"broadcast_buffers": False}):
            plain, attributed = _train(rank, False, options), _train(rank, True, options)
            assert all(torch.equal(a, b) for a, b in zip(plain, attributed, strict=True)), options
            for parameter in attributed[: len(list(TwoHeads().parameters()))]:
                first, second = _across_ranks(parameter)
                assert torch.equal(first, second), options
        with pytest.raises(ValueError, match="static_graph=False"):
            _train(rank, True, {"static_graph": True})
        inner_only = DistributedDataParallel(TwoHeads().requires_grad_(True), static_graph=True)
        losses = _losses(inner_only(torch.randn(6, 4)))
        with pytest.raises(ValueError, match="static_graph=False"):
            jacobian(losses, inner_only.module)
    finally:
        dist.destroy_process_group()


def test_two_ranks_train_as_without_attribution(tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    spawn(_worker, args=(str(tmp_path / "store"),), nprocs=2)
