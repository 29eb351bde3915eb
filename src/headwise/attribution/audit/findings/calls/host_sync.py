"""A line at which a step waits for the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings.finding import Check, Finding, Seen, counted
from headwise.attribution.audit.measures.repeated import repeated
from headwise.attribution.audit.measures.rows import Measured


def _measure(measured: Measured, subject: Subject) -> dict[str, int]:
    return dict(repeated(measured, subject).places)


def _judge(seen: Seen) -> Iterator[Finding]:
    places: Counter[str] = Counter()
    for own in seen.measured:
        for place, count in (own or {}).items():
            places[place] = max(places[place], count)
    if not places:
        return
    most = places.most_common()
    lines = "; ".join(f"{place} x{count}" for place, count in most[:8])
    more = f"; and {counted(len(most) - 8, 'more line', 'more lines')}" if len(most) > 8 else ""
    yield Finding(
        ", ".join(dict.fromkeys(place.split(" ")[0] for place, _ in most[:3])),
        f"{sum(places.values())} per step: {lines}{more}",
        "On a GPU each waits until all queued work is done. Keep numbers as 0-d tensors, log them once in a while, and "
        "use torch.where or a product with the mask instead of indexing by it.",
        {"per_step": sum(places.values()), "lines": len(most)},
    )


CHECK = Check("host-sync", _judge, _measure, needs_code=True, calls_again=True, is_note=True)
