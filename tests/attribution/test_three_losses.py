"""Three losses that share early nodes, on 25 points: three ways to one gradient, and the numbers known for it."""

import math

import pytest
import torch

from headwise.attribution import jacobian, trace

GRADIENT = [-3.1262, -3.2873, -1.6929, 0.17363, -1.6902, -5.3823, 8.4e-07, 5.3823, 1.6902]
LOSS1, TOTAL = 6.8286, 13.4809


class Points(torch.nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.x = torch.nn.Parameter(torch.linspace(0, 2 * math.pi, 25, dtype=dtype))

    def forward(self):
        a1 = torch.sin(self.x)
        t = torch.tan(a1**2)
        b = torch.cos(2 * a1 + 1)
        return {"loss1": torch.sin(t + t**2).sum(), "loss2": b.sum(), "loss3": torch.sin(b).sum()}


def one_backward(points):
    sum(points().values()).backward()
    return points.x.grad


def one_backward_per_loss(points):
    for loss in points().values():
        loss.backward(retain_graph=True)
    return points.x.grad


def gradients_added(points):
    losses = points().values()
    return sum(torch.autograd.grad(loss, points.x, retain_graph=True)[0] for loss in losses)


@pytest.mark.parametrize("way", [one_backward, one_backward_per_loss, gradients_added])
def test_all_three_ways_give_the_known_gradient(way):
    gradient = way(Points())
    for found, known in zip(gradient.tolist(), GRADIENT, strict=False):
        assert found == pytest.approx(known, rel=5e-5, abs=2e-6)  # five digits are known; the seventh point is rounding
    exact = one_backward(Points(torch.float64))
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=2e-6)


def test_the_values_are_the_known_ones():
    losses = Points()()
    assert float(losses["loss1"].detach()) == pytest.approx(LOSS1, abs=5e-5)
    assert float(sum(losses.values()).detach()) == pytest.approx(TOTAL, abs=5e-5)


def test_the_table_splits_the_gradient_by_loss():
    points = Points(torch.float64)
    losses = points()
    assert all(trace(losses, points).reaches(loss, "x") for loss in losses)
    table = jacobian(losses, points, gramian=True)
    rows = {name: torch.autograd.grad(loss, points.x, retain_graph=True)[0] for name, loss in losses.items()}
    for name, row in rows.items():
        assert table.norm(name) == pytest.approx(float(row.norm()), rel=1e-12)
    expected = torch.nn.functional.cosine_similarity(rows["loss2"], rows["loss3"], dim=0)
    assert table.conflict("loss2", "loss3") == pytest.approx(float(expected), rel=1e-12)


def test_numbers_that_are_off_are_seen():
    """The comparison above can fail: without loss3 the gradient differs in the first digit."""
    points = Points()
    losses = points()
    (gradient,) = torch.autograd.grad(losses["loss1"] + losses["loss2"], points.x)
    assert gradient[0].item() != pytest.approx(GRADIENT[0], rel=5e-5, abs=2e-6)
