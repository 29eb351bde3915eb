# mypy: ignore-errors
"""Learned weights of losses: they enter the total alone, and train through it."""

import pytest
import torch
from torch import nn

from tests.attribution.audit.cases.said import audit, batches, told


class MultiTask(nn.Module):
    """Two tasks; the log-variances come from a head, from parameters of the model, or from the criterion."""

    def __init__(self, kept):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.depth, self.normal = nn.Linear(5, 8), nn.Linear(8, 1), nn.Linear(8, 3)
        self.kept = kept
        if kept == "head":
            self.logvar = nn.Linear(8, 2)
        elif kept == "parameter":
            self.logvar = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        hidden = self.trunk(x).relu()
        found = {"depth": self.depth(hidden), "normal": self.normal(hidden)}
        if self.kept == "head":
            found["logvar"] = self.logvar(hidden)
        elif self.kept == "parameter":
            found["logvar"] = self.logvar[None]
        return found


class Uncertainty(nn.Module):
    def __init__(self, own, cut=False):
        super().__init__()
        self.logvar = nn.Parameter(torch.zeros(2)) if own else None
        self.cut = cut

    def forward(self, out, batch):
        s = self.logvar if self.logvar is not None else out["logvar"].mean(0)
        s = s.detach() if self.cut else s
        depth, normal = (out["depth"] - 1).abs().mean(), out["normal"].square().mean()
        total = (-s[0]).exp() * depth + (-s[1]).exp() * normal + s.sum() / 2
        return {"loss": total, "loss_depth": depth, "loss_normal": normal}


def run(kept, cut=False, **more):
    data = batches(lambda: {"input": torch.randn(8, 5)})
    return audit(model=MultiTask(kept), batches=data, criterion=Uncertainty(kept == "criterion", cut), **more)


TOTAL = pytest.mark.parametrize("total", [None, lambda L: L["loss"]], ids=["default", "given"])


@TOTAL
def test_log_variances_from_a_head_are_trained_by_the_total(total):
    report = run("head", **({"total": total} if total else {}))
    assert report.faults == (), told(report)


@TOTAL
def test_log_variances_that_are_an_output_without_a_batch(total):
    report = run("parameter", **({"total": total} if total else {}))
    assert report.faults == (), told(report)


@TOTAL
def test_the_table_has_what_the_total_adds_beside_its_losses(total):
    """The term s/2 is in no loss; a table of the losses alone does not add up to the total."""
    report = run("head", **({"total": total} if total else {}))
    assert any("total" in name or "no loss" in name for name in report.at_outputs) or "in no loss" in str(report)


def softmax_weights(out, batch):
    """Weights drawn from the network's own gate: a product of two things that are trained."""
    w = out["logvar"].softmax(-1).mean(0)
    depth, normal = (out["depth"] - 1).abs().mean(), out["normal"].square().mean()
    return {"loss": w[0] * depth + w[1] * normal, "loss_depth": depth, "loss_normal": normal}


def test_a_gate_over_losses_is_trained_by_the_total():
    data = batches(lambda: {"input": torch.randn(8, 5)})
    report = audit(model=MultiTask("head"), batches=data, criterion=softmax_weights)
    assert report.faults == (), told(report)


@TOTAL
def test_stays_silent_with_the_criterions_own_parameters(total):
    report = run("criterion", **({"total": total} if total else {}))
    assert report.faults == (), told(report)


@TOTAL
def test_stays_found_when_the_log_variances_are_cut_off(total):
    report = run("head", cut=True, **({"total": total} if total else {}))
    assert any(f.kind == "untrained-output" and f.subject == "logvar" for f in report.faults), told(report)
