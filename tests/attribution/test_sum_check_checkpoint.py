"""A checkpoint inside a replaced model: its second run must use the replacements, and move no running statistics."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headwise.attribution.audit.sum_check import check_sum
from headwise.attribution.jacobians.effect import effect


def test_running_statistics_stay_when_a_checkpoint_with_batchnorm_runs_again() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))
    image = torch.randn(4, 1, 3, 3)

    def closure() -> dict[str, Tensor]:
        out = checkpoint(model, image, use_reentrant=False)
        return {"a": out.square().mean(), "b": out.abs().mean()}

    before = [buffer.clone() for buffer in model.buffers()]
    assert check_sum(closure, model).passed
    assert effect(closure, model).method == "forward"
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
