"""The forum example: three losses that share early nodes, by hand, by one backward, and by the table."""

import math

import pytest
import torch
from torch import Tensor, nn

from headwise.attribution.jacobians.jacobian import jacobian
from headwise.attribution.tracing.trace import trace

PUBLISHED = [-3.1262, -3.2873, -1.6929, 0.17363, -1.6902, -5.3823, 8.4e-07, 5.3823, 1.6902]


class Points(nn.Module):
    """25 points from 0 to 2 pi, as the only parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.linspace(0, 2 * math.pi, 25))

    def losses(self) -> dict[str, Tensor]:
        a = self.x.sin()
        t = (a**2).tan()
        inner = (2 * a + 1).cos()
        return {"loss1": (t + t**2).sin().sum(), "loss2": inner.sum(), "loss3": inner.sin().sum()}


def test_three_ways_give_the_published_gradient() -> None:
    model = Points()
    losses = model.losses()
    assert float(losses["loss1"].detach()) == pytest.approx(6.8286, abs=5e-5)
    assert sum(float(loss.detach()) for loss in losses.values()) == pytest.approx(13.4809, abs=5e-5)
    assert all(trace(losses, model).reaches(loss, "x") for loss in losses)
    table = jacobian(losses, model, keep_gradient=True, gramian=True)
    separate = sum(
        (torch.autograd.grad(loss, model.x, retain_graph=True)[0] for loss in losses.values()), torch.zeros(25)
    )
    torch.stack(list(losses.values())).sum().backward()
    assert model.x.grad is not None
    for found in (model.x.grad, separate, table.gradient["x"]):
        assert found[: len(PUBLISHED)].tolist() == pytest.approx(PUBLISHED, rel=3e-4, abs=2e-6)
    assert table.norm("loss1") == pytest.approx(float(torch.autograd.grad(model.losses()["loss1"], model.x)[0].norm()))
