# mypy: ignore-errors
"""A mixture of experts balances its router by an auxiliary loss whose gradient a custom autograd function injects."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.attribution.audit.cases.said import accused, audit, batches, told


class Inject(torch.autograd.Function):
    """Passes a tensor on; on the way back the auxiliary loss receives the gradient 1 (times a scale)."""

    @staticmethod
    def forward(ctx, passed, aux, scale):
        ctx.scale, ctx.shape = scale, aux.shape
        return passed.view_as(passed)

    @staticmethod
    def backward(ctx, grad):
        return grad, torch.full(ctx.shape, ctx.scale), None


class Experts(nn.Module):
    """Routes each token to one of four experts. How the balancing loss trains: see `way`."""

    def __init__(self, way, where="weights", scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.router, self.head = nn.Linear(8, 4), nn.Linear(8, 5)
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
        self.way, self.where, self.scale = way, where, scale

    def forward(self, x):
        logits = self.router(x)
        chance = logits.softmax(-1)
        chosen = F.one_hot(chance.argmax(-1), 4).float()
        aux = 0.1 * 4 * (chosen.mean(0) * chance.mean(0)).sum()
        weights = (chance * chosen).sum(-1, keepdim=True)
        if self.way in ("injected", "injected and added"):
            weights = Inject.apply(weights, aux, self.scale)
        elif self.way == "thrown away":
            Inject.apply(weights, aux, self.scale)
        elif self.way == "into a detached tensor":
            weights = Inject.apply(weights, aux.detach(), self.scale)
        hidden = sum(chosen[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts)) * weights
        return {"logits": self.head(hidden), "aux": aux}


def run(way, scale=1.0):
    data = batches(lambda: {"input": torch.randn(16, 8), "next": torch.randint(5, (16,))})
    added = way in ("added", "injected and added")
    return audit(
        model=Experts(way, scale=scale), batches=data,
        criterion=lambda out, batch: {"lm": F.cross_entropy(out["logits"], batch["next"]), "aux": out["aux"]},
        total=lambda L: L["lm"] + L["aux"] if added else L["lm"],
    )  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 0.5], ids=["1", "1/accumulation"])
def test_an_injected_loss_is_not_dropped(scale):
    report = run("injected", scale)
    assert accused(report, ("lm", "aux")) == set(), told(report)


def test_the_reader_is_told_that_a_gradient_is_injected():
    report = run("injected")
    assert "Inject" in str(report)


def test_injected_and_added_is_counted_twice():
    report = run("injected and added")
    assert accused(report, ("lm", "aux")) == {"aux"}, told(report)
    assert any("twice" in f.evidence for f in report.faults)


def test_no_dominance_over_an_injected_loss():
    assert not [f for f in run("injected").notes if f.kind == "dominance" and "100.00% or more" in f.evidence]


def test_stays_silent_when_added():
    report = run("added")
    assert accused(report, ("lm", "aux")) == set(), told(report)


@pytest.mark.parametrize("way", ["thrown away", "forgotten"])
def test_stays_found_when_the_injection_is_lost(way):
    report = run(way)
    assert accused(report, ("lm", "aux")) == {"aux"}, told(report)


def test_stays_found_an_injection_into_a_detached_loss():
    report = run("into a detached tensor")
    assert accused(report, ("lm", "aux")) == {"aux"}, told(report)


@pytest.mark.parametrize("added", [False, True], ids=["injected", "injected and added"])
def test_a_sum_of_losses_is_injected(added):
    class Sums(Experts):
        def forward(self, x):
            logits = self.router(x)
            aux, z = 0.1 * logits.softmax(-1).mean(0).square().sum(), 0.01 * logits.logsumexp(-1).square().mean()
            hidden = Inject.apply(self.experts[0](x) * logits.softmax(-1)[:, :1], aux + z, 1.0)
            return {"logits": self.head(hidden), "aux": aux, "z": z}

    report = audit(
        model=Sums("injected"), batches=batches(lambda: {"input": torch.randn(16, 8), "next": torch.randint(5, (16,))}),
        criterion=lambda out, batch: {
            "lm": F.cross_entropy(out["logits"], batch["next"]), "aux": out["aux"], "z": out["z"],
        },
        total=lambda losses: losses["lm"] + losses["aux"] if added else losses["lm"],
    )  # fmt: skip
    assert accused(report, ("lm", "aux", "z")) == ({"aux"} if added else set()), told(report)
