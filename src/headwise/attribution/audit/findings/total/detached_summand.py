"""Something that the total adds without a graph, although it is computed from what is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from headwise.attribution.audit.code.cut import CutSummand
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings.finding import Check, Finding, Seen
from headwise.attribution.audit.findings.total.detached_loss import told_values
from headwise.attribution.audit.measures.repeated import repeated
from headwise.attribution.audit.measures.rows import Measured

_SAME = 1e-5
_Place: TypeAlias = tuple[str, str, str, tuple[str, ...]]


def _measure(measured: Measured, subject: Subject) -> tuple[CutSummand, ...]:
    return repeated(measured, subject).cut


def _judge(seen: Seen) -> Iterator[Finding]:
    told = {finding.subject for finding in seen.told if finding.kind == "detached-loss"}
    found: dict[_Place, dict[int, float]] = {}
    for number, own in enumerate(seen.measured):
        for each in own or ():
            if told.isdisjoint(each.names):
                place = _listed({cut.line for cut in each.cuts}), each.line, _listed(each.reads), each.names
                here = found.setdefault(place, {})
                here[number] = here.get(number, 0.0) + each.value
    for (cut, line, reads, names), by_batch in found.items():
        if not cut and any(_is_loss(seen, name, by_batch) for name in told):
            continue
        values = [*by_batch.values()]
        left = f"left the graph at {cut}" if cut else f"was a plain number on the way (read at {reads})"
        yield Finding(
            names[0] if len(names) == 1 else f"the summand of {cut or line}",
            f"what is added at {line} depends on what is trained, and {left}: its value {told_values(values)} in "
            f"{len(values)} of {seen.num}, shows in the total and trains nothing",
            "Compute it with tensors all the way from the outputs: without .item(), .data, .detach(), argmax, NumPy, "
            "torch.no_grad(), or a new torch.tensor(...) around it. What is meant for the log has no place in the "
            "total.",
            {"batches": len(values)},
        )


def _is_loss(seen: Seen, name: str, by_batch: Mapping[int, float]) -> bool:
    """Whether a plain number is a loss that is told already, times a weight."""
    pairs = [(value, seen.batches[number].values.get(name, 0.0)) for number, value in by_batch.items()]
    factors = [value / loss for value, loss in pairs if loss]
    if len(factors) < len(pairs):
        return False
    if len(factors) == 1:
        return math.isclose(factors[0], 1.0, rel_tol=_SAME)
    return max(factors) - min(factors) <= _SAME * max(map(abs, factors))


def _listed(lines: Iterable[str]) -> str:
    """Lines of code in words."""
    return ", ".join(sorted(set(lines)))


CHECK = Check("detached-loss", _judge, _measure, needs_code=True, calls_again=True)
