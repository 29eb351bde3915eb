"""Code in the manner of published repositories: each fault is found and named, and healthy code is left alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from headwise.attribution import audit
from tests.attribution.audit.strangers import FAULTS, HEALTHY, Net, subject


@pytest.mark.parametrize("build", FAULTS, ids=lambda build: build.__name__)
def test_a_fault_is_found_and_named(build):
    kinds, names = FAULTS[build]
    torch.manual_seed(0)
    report = audit(build())
    told = [each for each in report.faults if each.kind in kinds and any(name in each.subject for name in names)]
    assert told, str(report)


@pytest.mark.parametrize("build", HEALTHY, ids=lambda build: build.__name__)
def test_healthy_code_is_left_alone(build):
    torch.manual_seed(0)
    report = audit(build())
    assert report.faults == (), str(report)
    assert report.exit_code == 0


def test_an_output_that_a_factor_of_zero_switches_off_is_told_with_its_loss():
    def criterion(out, batch):
        return {"cls": F.cross_entropy(out["cls"], batch["label"]), "box": F.l1_loss(out["box"], batch["box"])}

    report = audit(subject(Net(cls=3, box=2), criterion, total=lambda found: found["cls"] + (1 // 10) * found["box"]))
    assert report.faults == (), "a weight may begin at 0"
    assert report.standings["box"].factor == 0.0
    why = "the total reads it by box, which it multiplies by 0 in 3 batches"
    assert report.unaudited["untrained-output: box"] == why
