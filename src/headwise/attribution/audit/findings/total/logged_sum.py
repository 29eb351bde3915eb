"""Where the losses are only reported as numbers: which change of one of them makes them add up to the total?"""

from __future__ import annotations

from collections.abc import Iterator

from headwise.attribution.apart.words import is_metric
from headwise.attribution.audit.findings.finding import Check, Finding, Seen

_LEVEL = 1e-5


def _judge(seen: Seen) -> Iterator[Finding]:
    if any(finding.kind == "sum-mismatch" and finding.subject.startswith("the term at ") for finding in seen.told):
        return
    for name, times in _fits(seen).items():
        # Twice is told by the graph; a factor of 2 in the code looks the same in the numbers.
        if times == 2 and any(each.factor not in (None, 1.0) for each in seen.batches[0].summands):
            continue
        yield Finding(
            name,
            f"{'dropped' if times == 0 else 'counted twice'}: over {seen.num} the reported losses add up to the total, "
            f"or to one multiple of it, only if it is taken {times} times",
            "Add it to the total once.",
            {"times": times, "batches": len(seen.batches)},
        )


def _fits(seen: Seen) -> dict[str, int]:
    """Of the reported losses the one that must be taken 0 or 2 times for all batches to add up."""
    batches = [batch for batch in seen.batches if batch.total is not None]
    logs = [{name: value for name, value in b.logs.items() if not is_metric(name)} for b in batches]
    if not logs or any(len(log) < 2 or log.keys() != logs[0].keys() for log in logs):
        return {}
    if any(len(batch.names) > 1 for batch in batches):
        return {}
    totals = [batch.total or 0.0 for batch in batches]
    # Over several batches a mean, or a division by the steps of accumulation, is told from what it divides.
    scaled = len(batches) > 2
    if _add_up(totals, [sum(log.values()) for log in logs], scaled):
        return {}
    found = {}
    for name in logs[0]:
        moves = any(abs(log[name]) > 1e-3 * abs(total) for log, total in zip(logs, totals, strict=True))
        for times in (0, 2):
            sums = [sum(log.values()) + (times - 1) * log[name] for log in logs]
            # But weights of 1 and 0.5 are two losses of which one counts twice, halved.
            if moves and _add_up(totals, sums, scaled and not times):
                found[name] = times
    return found if len(found) == 1 else {}


def _add_up(totals: list[float], sums: list[float], scaled: bool) -> bool:
    scale = totals[0] / sums[0] if scaled and sums[0] else 1.0
    pairs = [(total, scale * each) for total, each in zip(totals, sums, strict=True)]
    return all(abs(t - s) <= _LEVEL * max(abs(t), abs(s), 1e-12) for t, s in pairs)


CHECK = Check("sum-mismatch", _judge)
