"""Outputs and targets that the criterion wrote into."""

from __future__ import annotations

from collections.abc import Iterator

from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings.finding import Check, Finding, Seen
from headwise.attribution.audit.measures.rows import Measured


def _measure(measured: Measured, subject: Subject | None) -> dict[str, str]:
    return measured.step.mutated


def _judge(seen: Seen) -> Iterator[Finding]:
    for path, each in seen.by_name.items():
        yield Finding(
            path,
            f"the criterion wrote into it: {each[0]}, in {len(each)} of {seen.num}",
            "Work out of place (x.sigmoid() for x.sigmoid_(), x = x * y for x *= y), or clone first: whatever reads it "
            "afterwards (a second loss, a metric, the next epoch) sees other numbers.",
            {"batches": len(each)},
        )


CHECK = Check("mutated-input", _judge, _measure, needs_code=True)
