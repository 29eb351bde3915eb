"""The gradient of the sum is not the sum of the gradients: the question of `check_sum`, asked of the audited graph."""

from __future__ import annotations

from collections.abc import Iterator

from headwise.attribution.audit.findings.finding import Check, Finding, Seen, in_all


def _judge(seen: Seen) -> Iterator[Finding]:
    gaps = [batch.gap for batch in seen.batches if batch.gap is not None and not batch.nonfinite]
    if not gaps or any(gap.is_linear or gap.repeated > gap.limit for gap in gaps):
        return
    worst = max(gaps, key=lambda gap: gap.statistic)
    yield Finding(
        worst.suspects,
        f"the gradients of the losses, added up, differ from that of their sum by {worst.statistic:.1e} of their norms "
        f"at {worst.parameter}, in {in_all(len(gaps))}",
        "A backward pass that clips, normalizes, rounds or selects treats a loss otherwise alone than with the others, "
        "so that what it trains depends on them. Do that to the parameters' gradients after the pass; `check_sum` "
        "has a row per parameter.",
        {"statistic": worst.statistic, "limit": worst.limit},
    )


CHECK = Check("nonlinear-backward", _judge, is_note=True)
