"""A loss that the total drops, or adds more than once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from headwise.attribution.audit.findings.finding import Check, Finding, Open, Seen, counted
from headwise.attribution.audit.measures.rows import TOTAL, Rows


def _judge(seen: Seen) -> Iterator[Finding | Open]:
    told = False
    for name in seen.names:
        batches = [batch for batch in seen.holding(name) if name in batch.live and batch.total is not None]
        batches = [batch for batch in batches if not batch.is_sum]
        found = (_twice(name, batches) or _dropped(seen, name, batches)) if batches else None
        for each in [found] if found is not None else _unread(name, batches):
            told |= isinstance(each, Finding)
            yield each
    if not told:
        yield from _repeated(seen)


def _twice(name: str, batches: Sequence[Rows]) -> Finding | None:
    times = [batch.standings[name].times + batch.again.twins.get(name, 0) for batch in batches]
    if min(times) < 2:
        return None
    factors = [factor for batch in batches if (factor := batch.factor(name)) is not None and math.isfinite(factor)]
    factor = statistics.median(factors) if factors else None
    again = max(batch.again.twins.get(name, 0) for batch in batches)
    injected = next((each for batch in batches for each in batch.standings[name].injected), "")
    how = f", {again} of them computed a second time" if again else ""
    how += f", once by the gradient that {injected} injects" if injected else ""
    told = "" if factor is None or again else f"; its factor in the total's gradient is {factor:.4g}"
    return Finding(
        name,
        f"counted {'twice' if times[0] == 2 else f'{times[0]} times'}: the total adds it {times[0]} times{how} in "
        f"{counted(len(batches), 'batch', 'batches')}{told}",
        "Add it once. If it is meant to weigh more, write the weight as a factor. Look for a total that is summed "
        "together with its parts, or a loop and a line that both add it.",
        {"times": times[0], "coefficient": factor, "batches": len(batches)},
    )


def _dropped(seen: Seen, name: str, batches: Sequence[Rows]) -> Finding | Open | None:
    telling = [batch for batch in batches if batch.norm(name) > 0 and (batch.reached[TOTAL] or batch.norm(TOTAL) > 0)]
    if not telling or seen.is_meant_zero(name):
        return None
    if any(batch.is_in(name) for batch in batches):
        off = all(batch.factor(name) == 0 for batch in telling)
        return Open(f"sum-mismatch: {name}", f"the total multiplies it by 0 in {seen.num}") if off else None
    # A sum of losses that are in the total themselves stands for them.
    if any(_stands_for_parts(batch, name) for batch in telling):
        return None
    if all(batch.standings[name].is_outdone for batch in telling):
        return Open(f"sum-mismatch: {name}", f"of several losses the total takes another in {seen.num}")
    return Finding(
        name,
        f"dropped: the total does not depend on it (factor 0 over {counted(len(telling), 'batch', 'batches')}), while "
        f"its own gradient has the norm {max(batch.norm(name) for batch in telling):.4g}",
        "Add it to the total. Look for a misspelled key, a `.get` with a default, a list it was never appended to, or "
        "an assignment (=) where += was meant.",
        {"coefficient": 0.0, "batches": len(telling)},
    )


def _unread(name: str, batches: Sequence[Rows]) -> Iterator[Finding]:
    """Of losses that the criterion stacked, those that the total takes in no batch."""
    left = [batch.standings[name].unread for batch in batches]
    for number in sorted(frozenset.intersection(*left)) if left else ():
        yield Finding(
            f"{name}[{number}]",
            f"dropped: of the losses that are stacked in {name!r}, the total does not depend on the one at {number} in "
            f"{counted(len(left), 'batch', 'batches')}",
            "Add it to the total. Look for a slice or a vector of weights that ends before it.",
            {"coefficient": 0.0, "batches": len(left)},
        )


def _stands_for_parts(batch: Rows, name: str) -> bool:
    parts = batch.standings[name].parts
    return bool(parts) and all(batch.is_in(part) for part in parts)


def _repeated(seen: Seen) -> Iterator[Finding]:
    """Summands without a name that are added several times."""
    found = [set(batch.again.repeats) for batch in seen.batches]
    for line, times in sorted(set.intersection(*found)) if found else ():
        yield Finding(
            f"the term at {line or 'an unknown line'}",
            f"counted {times} times: the total adds one and the same number {times} times, in {seen.num}",
            "Add it once, or write a weight as a factor.",
            {"times": times, "batches": len(seen.batches)},
        )


CHECK = Check("sum-mismatch", _judge)
