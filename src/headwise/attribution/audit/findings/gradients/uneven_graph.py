"""Parameters that are in the graph of the total in some batches only: what that does depends on how data are split."""

from __future__ import annotations

from collections.abc import Iterator

from headwise.attribution.audit.findings.finding import Check, Finding, Seen
from headwise.attribution.audit.findings.gradients.unreached_parameter import by_module
from headwise.attribution.audit.measures.rows import TOTAL


def _judge(seen: Seen) -> Iterator[Finding]:
    batches = [batch for batch in seen.batches if batch.total is not None]
    known = [*seen.declared.parameters, *seen.declared.criterion_parameters]
    counts = {name: sum(name in batch.reached[TOTAL] for batch in batches) for name in known}
    uneven = [name for name, count in counts.items() if 0 < count < len(batches)]
    for module, members in by_module(uneven, known).items():
        subject = ", ".join(members) if len(members) <= 4 else f"{module}.*"
        yield Finding(
            subject,
            f"in the graph of the total in {counts[members[0]]} of {seen.num}: a loss leaves the graph where it has "
            "nothing to train on",
            "Keep the graph (a sum over nothing, or 0 * output.sum(), for a constant 0): DistributedDataParallel waits "
            "for these gradients on the ranks whose batch has them.",
            {"batches": counts[members[0]], "of": len(batches)},
        )


CHECK = Check("split-variant", _judge, is_note=True)
