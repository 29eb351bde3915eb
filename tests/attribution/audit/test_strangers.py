"""Code in the manner of published repositories: each fault is found and named, and healthy code is left alone."""

from __future__ import annotations

import pytest
import torch

from headwise.attribution import audit
from tests.attribution.audit.strangers import FAULTS, HEALTHY


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
