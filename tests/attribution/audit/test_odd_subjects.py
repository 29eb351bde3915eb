"""Code in manners of its own: each fault is named, its repaired form and healthy code are left alone."""

from __future__ import annotations

import pytest
import torch

from headwise.attribution import audit
from tests.attribution.audit import odd_models, odd_subjects, odd_totals

FAULTS = odd_subjects.FAULTS | odd_models.FAULTS | odd_totals.FAULTS
HEALTHY = odd_subjects.HEALTHY + odd_models.HEALTHY + odd_totals.HEALTHY


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


def test_weights_that_are_zipped_in_another_order_are_told_with_the_loss_that_each_multiplies():
    report = audit(odd_subjects.weights_in_another_order())
    told = {each.subject: each.evidence.partition(":")[0] for each in report.faults}
    assert told == {
        "loss_box": "weight weights['loss_box'] = 5 multiplies loss_cls",
        "loss_cls": "weight weights['loss_cls'] = 1 multiplies loss_obj",
        "loss_obj": "weight weights['loss_obj'] = 0.5 multiplies loss_box",
    }
