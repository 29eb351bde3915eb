"""JacobianSampler: rows in a training loop that stays as it is."""

from typing import Literal

import pytest
import torch
from torch import nn

from headwise.attribution.jacobians.jacobian import jacobian
from headwise.attribution.jacobians.jacobian_table import JacobianTable
from headwise.attribution.jacobians.sampler import JacobianSampler
from tests.attribution.brute import Net, three_losses

GROUPS = {"trunk": ["stem.*", "block.*"], "heads": "*"}


def _train(
    steps: int, every: int | None = None, mode: Literal["rotating", "full"] = "rotating", scale: float = 1.0
) -> tuple[nn.Module, list[JacobianTable], JacobianSampler]:
    torch.manual_seed(0)
    model = Net(norm=False).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01 / scale)
    sampler = JacobianSampler(model, every or 1, mode, group=GROUPS)
    tables = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        losses = three_losses(model(torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=generator)))
        if every is not None:
            tables.append(jacobian(losses, model, group=GROUPS))
            sampler.step(losses)
        optimizer.zero_grad()
        (scale * sum(losses.values(), torch.zeros(()))).backward()
        optimizer.step()
    return model, tables, sampler


def test_rotates_over_the_losses_and_measures_exactly() -> None:
    _, tables, sampler = _train(6, every=2, scale=1024.0)
    found = sampler.rows
    assert {name: row.step for name, row in found.items()} == {"text": 0, "angle": 2, "depth": 4}
    for name, row in found.items():
        for group in GROUPS:
            assert row.norm[group] == pytest.approx(tables[row.step].norm(name, group), rel=1e-12)
            assert row.cosine[group] == pytest.approx(tables[row.step].cosine(name, group), rel=1e-9)
    assert "headwise/text/trunk/parameter_norm" in sampler.log()


@pytest.mark.parametrize("mode", ["rotating", "full"])
def test_training_is_equal_to_the_bit(mode: Literal["rotating", "full"]) -> None:
    plain, _, _ = _train(4)
    sampled, _, sampler = _train(4, every=1, mode=mode)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), sampled.parameters(), strict=True))
    sampler.close()
    assert not any(p._backward_hooks for p in sampled.parameters())


def test_full_mode_makes_the_table() -> None:
    _, _, sampler = _train(3, every=2, mode="full")
    assert sampler.table is not None
    assert sampler.table.losses == ("text", "angle", "depth")
    assert "headwise/depth/heads/parameter_cosine" in sampler.log()


def test_without_a_backward_pass_there_is_no_cosine() -> None:
    model = Net()
    with JacobianSampler(model) as sampler:
        assert sampler.step(three_losses(model(torch.randn(2, 3, 4, 4))))
        assert not sampler.step({"unseen": 0.0})
        assert set(sampler.rows["text"].cosine.values()) == {None}


def test_wrong_settings_are_refused() -> None:
    model = Net()
    with pytest.raises(ValueError, match="every"):
        JacobianSampler(model, 0)
    with pytest.raises(ValueError, match="mode"):
        JacobianSampler(model, 1, "sometimes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no loss has a graph"):
        JacobianSampler(model).step({"a": 0.0})
