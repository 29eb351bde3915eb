# mypy: ignore-errors
"""Losses are computed inline in the loop (GANs, distillation): one step is handed over as (model, outputs, losses)."""

import pytest
import torch
from torch import nn

import headwise as hw
from tests.attribution.audit.cases.said import accused, told


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.there, self.back = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, a, b):
        fake_b, fake_a = self.there(a).tanh(), self.back(b).tanh()
        return {"fake_b": fake_b, "fake_a": fake_a, "again_a": self.back(fake_b), "again_b": self.there(fake_a)}


def step(per_sample=False):
    """The generator's half of a step against frozen critics."""
    torch.manual_seed(1)
    critic = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1)).requires_grad_(False)
    model, a, b = Generator(), torch.randn(8, 5), torch.randn(8, 5)
    out = model(a, b)
    losses = {
        "adv_a": (critic(out["fake_a"]) - 1).square().mean(-1), "adv_b": (critic(out["fake_b"]) - 1).square().mean(-1),
        "cycle_a": (out["again_a"] - a).abs().mean(-1), "cycle_b": (out["again_b"] - b).abs().mean(-1),
    }  # fmt: skip
    return model, out, losses if per_sample else {name: loss.mean() for name, loss in losses.items()}


NAMES = ("adv_a", "adv_b", "cycle_a", "cycle_b")
FORMS = {
    "dict": lambda total, L: {**L, "loss_G": total},
    "dict, clone": lambda total, L: {**L, "loss_G": total.clone()},
    "dict, averaged": lambda total, L: {**{k: v.mean() for k, v in L.items()}, "loss_G": total.mean()},
    "total and dict": lambda total, L: (total, L),
}
EVERY = pytest.mark.parametrize("form", FORMS)


def report_of(form, made, per_sample=False):
    model, out, losses = step(per_sample)
    total = made({k: v.mean() for k, v in losses.items()} if per_sample else losses)
    return hw.attribution.audit((model, out, FORMS[form](total, losses)))


@EVERY
def test_a_copied_line(form):
    """`cycle_a` is added twice and `cycle_b` never."""
    report = report_of(form, lambda L: L["adv_a"] + L["adv_b"] + 10 * (L["cycle_a"] + L["cycle_a"]))
    assert "cycle_b" in accused(report, NAMES) <= {"cycle_a", "cycle_b"}, told(report)


@EVERY
def test_counted_twice(form):
    report = report_of(form, lambda L: sum(L.values()) + L["adv_b"])
    assert accused(report, NAMES) == {"adv_b"}, told(report)


@EVERY
def test_per_sample_parts_of_a_scalar_total(form):
    report = report_of(form, lambda L: L["adv_a"] + L["adv_b"] + 10 * L["cycle_a"], per_sample=True)
    names = (*NAMES, *(f"1.{name}" for name in NAMES))
    assert {n.rpartition(".")[2] for n in accused(report, names)} == {"cycle_b"}, (report.losses, told(report))


@EVERY
def test_stays_silent_with_weights(form):
    report = report_of(form, lambda L: L["adv_a"] + L["adv_b"] + 10 * (L["cycle_a"] + L["cycle_b"]))
    assert report.faults == (), told(report)


@EVERY
def test_stays_found_a_detached_part(form):
    model, out, losses = step()
    losses["cycle_a"] = losses["cycle_a"].detach()
    report = hw.attribution.audit(
        (
            model,
            out,
            FORMS[form](losses["adv_a"] + losses["adv_b"] + 10 * (losses["cycle_a"] + losses["cycle_b"]), losses),
        )
    )
    assert accused(report, NAMES) == {"cycle_a"}, told(report)


def test_what_one_step_cannot_show_is_told():
    """From one step, a dead loss is no proof; the report says how many steps it saw."""
    report = report_of("dict", lambda L: sum(L.values()))
    assert {"outside-mask", "mutated-input", "split-variant"} <= set(report.unaudited)
    text = " ".join(str(report).split())
    assert "1 batch" in text
    assert "1 batches" not in text
