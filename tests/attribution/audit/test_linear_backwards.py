"""Backward passes of many manners that are linear in what they get: no audit takes them for others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from headwise.attribution import audit


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad


class Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grad * ((x >= 0) & (x <= 1))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return -0.3 * grad


class Injected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, torch.ones(())


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        shares = self.gate(x).softmax(1)
        return Injected.apply(x * shares.amax(1, keepdim=True), shares.mean(0).square().sum())


class Applied(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.inner, x, use_reentrant=False)


def hooked(hook: Any) -> nn.Module:
    module = nn.Linear(16, 16)
    module.weight.register_hook(hook)
    return module


MIDDLES = {
    "straight through": lambda: Applied(Rounded.apply),
    "clamped": lambda: Applied(Gated.apply),
    "reversed": lambda: Applied(Reversed.apply),
    "experts": Experts,
    "a hook that scales": lambda: hooked(lambda grad: 0.1 * grad),
    "a hook that removes NaN": lambda: hooked(torch.nan_to_num),
    "a hook that clips far away": lambda: hooked(lambda grad: grad.clamp(-50, 50)),
    "checkpoint": Checkpointed,
    "spectral norm": lambda: spectral_norm(nn.Linear(16, 16)),
    "weight norm": lambda: weight_norm(nn.Linear(16, 16)),
    "fake quantization": lambda: Applied(lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)),
    "hard samples": lambda: Applied(lambda x: F.gumbel_softmax(x, hard=True, dim=1)),
}


class Net(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.trunk, self.label, self.place = (
            nn.Sequential(nn.Linear(16, 16), middle),
            nn.Linear(16, 3),
            nn.Linear(16, 2),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"label": self.label(features), "place": self.place(features)}


def criterion(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    label = F.cross_entropy(outputs["label"].float(), batch["label"])
    return {"label": label, "place": F.smooth_l1_loss(outputs["place"].float(), batch["place"])}


def subject(middle: nn.Module) -> dict[str, Any]:
    torch.manual_seed(0)
    batch = {"input": torch.randn(8, 16), "label": torch.arange(8) % 3, "place": torch.randn(8, 2)}
    return {"model": Net(middle), "batches": [batch], "criterion": criterion}


@pytest.mark.parametrize("name", MIDDLES)
def test_a_linear_backward_is_no_finding(name: str) -> None:
    report = audit(subject(MIDDLES[name]()))
    assert report.faults == (), str(report)
    assert all(note.kind != "nonlinear-backward" and note.subject != "the backward pass" for note in report.notes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_no_finding(dtype: torch.dtype) -> None:
    def forward(model: nn.Module, batch: dict[str, Tensor]) -> Any:
        with torch.autocast("cpu", dtype=dtype):
            return model(batch["input"])

    report = audit(subject(nn.Linear(16, 16)) | {"forward": forward})
    assert all(note.kind != "nonlinear-backward" for note in report.findings), str(report)


@pytest.mark.parametrize(
    ("hook", "kind", "who"),
    [
        (lambda grad: grad / grad.norm(), "nonlinear-backward", "a hook on trunk.1.weight"),
        (lambda grad: grad * torch.rand(()), "random-draw", "the backward pass"),
    ],
)
def test_a_hook_that_is_not_linear_or_draws_is_noted(hook: Any, kind: str, who: str) -> None:
    report = audit(subject(hooked(hook)))
    assert (kind, who) in {(note.kind, note.subject) for note in report.notes}, str(report)
