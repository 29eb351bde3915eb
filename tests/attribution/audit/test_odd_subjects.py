"""Code in manners of its own: each fault is named, its repaired form and healthy code are left alone."""

from __future__ import annotations

import pytest
import torch

from headwise.attribution import audit
from tests.attribution.audit import odd_cuts, odd_models, odd_steps, odd_subjects, odd_totals

FAULTS = odd_subjects.FAULTS | odd_models.FAULTS | odd_totals.FAULTS | odd_steps.FAULTS | odd_cuts.FAULTS
HEALTHY = odd_subjects.HEALTHY + odd_models.HEALTHY + odd_totals.HEALTHY + odd_steps.HEALTHY + odd_cuts.HEALTHY


@pytest.mark.parametrize("build", FAULTS, ids=lambda build: build.__name__)
def test_a_fault_is_found_and_named_and_its_repaired_form_has_none(build):
    kinds, names = FAULTS[build]
    torch.manual_seed(0)
    report = audit(build())
    told = [each for each in report.faults if each.kind in kinds and any(name in each.subject for name in names)]
    assert told, str(report)
    torch.manual_seed(0)
    repaired = audit(build(fixed=True))
    assert repaired.faults == (), str(repaired)


@pytest.mark.parametrize("build", HEALTHY, ids=lambda build: build.__name__)
def test_healthy_code_is_left_alone(build):
    torch.manual_seed(0)
    report = audit(build())
    assert report.faults == (), str(report)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_loss_that_was_returned_as_a_number_is_told_once_by_its_name(weight):
    def criterion(out, batch):
        losses = odd_steps.three(out, batch)
        losses["box"] = torch.tensor(losses["box"].item())
        losses["total"] = sum(weight * each for each in losses.values())
        return losses

    report = audit({**odd_subjects.subject(odd_steps.heads(), criterion), "total": lambda losses: losses["total"]})
    assert [each.subject for each in report.faults if each.kind == "detached-loss"] == ["box"], str(report)


def test_weights_that_are_zipped_in_another_order_are_told_with_the_loss_that_each_multiplies():
    report = audit(odd_subjects.weights_in_another_order())
    told = {each.subject: each.evidence.partition(":")[0] for each in report.faults}
    assert told == {
        "loss_box": "weight weights['loss_box'] = 5 multiplies loss_cls",
        "loss_cls": "weight weights['loss_cls'] = 1 multiplies loss_obj",
        "loss_obj": "weight weights['loss_obj'] = 0.5 multiplies loss_box",
    }


def test_a_loss_that_the_total_multiplies_by_0_and_a_parameter_without_a_gradient_are_said_to_be_open():
    def criterion(out, batch):
        found = odd_steps.three(out, batch)
        return {**found, "loss": found["cls"] + found["box"] + (batch["label"].numel() // 10) * found["reach"]}

    report = audit(odd_subjects.subject(odd_steps.heads(), criterion))
    assert report.unaudited["sum-mismatch: reach"] == "the total multiplies it by 0 in 3 batches"

    class Low(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = torch.nn.Linear(6, 2), torch.nn.Linear(2, 3)
            torch.nn.init.zeros_(self.up.weight)

        def forward(self, x):
            return self.up(self.down(x))

    loss = torch.nn.functional.cross_entropy
    report = audit(odd_subjects.subject(Low(), lambda out, batch: loss(out, batch["label"])))
    assert report.faults == ()
    assert "a gradient of 0 in 3 batches" in report.unaudited["unreached-parameter: down.weight, down.bias"]


def test_in_one_step_a_part_without_a_graph_shows_in_a_total_that_is_divided():
    built = odd_steps.heads()
    torch.manual_seed(1)
    batch = odd_subjects.rows()
    out = built(batch["input"])
    losses = odd_steps.three(out, batch)
    losses["box"] = losses["box"].detach()
    report = audit((built, out, {**losses, "loss": sum(losses.values()) / 4}))
    assert "box" in [each.subject for each in report.faults if each.kind == "detached-loss"], str(report)
