"""Each planted fault is found and named; nothing is found where nothing is wrong."""

from __future__ import annotations

import pytest

from headwise.attribution import audit
from tests.attribution.audit import planted_dense
from tests.attribution.audit.planted import HEALTHY, PLANTED

assert planted_dense.__name__  # it registers its cases


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_found_and_named(name):
    build, kind, where = PLANTED[name]
    report = audit(build())
    named = [finding for finding in report.findings if finding.kind == kind and where in finding.subject]
    assert named, str(report)
    assert all(any(c.isdigit() for c in finding.evidence) and finding.remedy for finding in named)


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_code_has_no_finding(name):
    report = audit(HEALTHY[name]())
    assert report.faults == (), str(report)
    assert all(finding.kind != "nonlinear-backward" for finding in report.findings), str(report)
