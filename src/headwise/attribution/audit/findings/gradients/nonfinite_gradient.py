"""A loss whose gradient is not finite, at the outputs or, where those are finite, at parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from headwise.attribution.audit.findings.finding import Check, Finding, Seen
from headwise.attribution.audit.measures.rows import TOTAL, Bad
from headwise.attribution.text import names as listed


def _judge(seen: Seen) -> Iterator[Finding]:
    for name in (*seen.names, TOTAL):
        hits = [each for batch in seen.batches for each in batch.nonfinite if each.loss == name]
        chosen = [each for each in hits if each.where in seen.outputs] or hits
        if not chosen:
            yield from _value_alone(seen, name)
            continue
        if name == TOTAL and any(b.nonfinite and b.nonfinite[0].loss != TOTAL for b in seen.batches):
            continue
        first = chosen[0]
        count = sum(any(each.loss == name for each in batch.nonfinite) for batch in seen.batches)
        yield Finding(
            f"{name} at {listed(dict.fromkeys(each.where for each in chosen))}",
            f"{first.count} of {first.numel} elements of its gradient at {first.where} are NaN or infinite, in "
            f"{count} of {seen.num}; {_loss_value(chosen)}",
            "Keep the bad elements out of the arithmetic, not only out of the result: 0 * inf is NaN. Clamp inside "
            "sqrt, log and division (sqrt(x.clamp(min=eps))), or index by the mask before them.",
            {"elements": first.count, "of": first.numel, "value": first.value},
        )


def _value_alone(seen: Seen, name: str) -> Iterator[Finding]:
    """A loss that is not finite although its gradient is."""
    values = [batch.values[name] for batch in seen.holding(name)] if name != TOTAL else []
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        yield Finding(
            name,
            f"the loss itself is {bad[0]} in {len(bad)} of {len(values)} batches, with a gradient that is finite",
            "Look for log(0) or a division by 0 whose gradient a clamp hides, and for overflow in half precision.",
            {"batches": len(bad)},
        )


def _loss_value(chosen: Sequence[Bad]) -> str:
    value = chosen[0].value
    return f"the loss itself is {value:.6g}" + (", so nothing shows" if math.isfinite(value) else "")


CHECK = Check("nonfinite-gradient", _judge)
