"""A loss whose graph holds what an earlier batch's call computed: a list that is never emptied, a state kept whole."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings.finding import Check, Finding, Seen
from headwise.attribution.audit.measures.account import line_of
from headwise.attribution.audit.measures.rows import Measured
from headwise.graph import gradient_edge, topological

_MARK = "headwise.audit"


def _measure(measured: Measured, subject: Subject | None) -> dict[str, str]:
    """The losses with nodes that keep tensors and that an earlier batch marked, and the line of one of these."""
    here, found = object(), {}
    for name, loss in measured.live.items():
        edge = gradient_edge(loss)
        nodes = topological([edge[0]]) if edge is not None else []
        own: list[Any] = [node for node in nodes if _keeps(type(node))]
        old = [node for node in own if node.metadata.setdefault(_MARK, here) is not here]
        if old:
            found[name] = next(filter(None, (line_of((node, 0)) for node in old)), "a line that is not known")
    return found


@cache
def _keeps(kind: type) -> bool:
    """Whether a backward pass frees what nodes of a kind keep: not of a leaf, nor of a view that was made once."""
    return any("raw_saved" in each for each in dir(kind))


def _judge(seen: Seen) -> Iterator[Finding]:
    for name, lines in seen.by_name.items():
        yield Finding(
            name,
            f"holds the graph of an earlier batch in {len(lines)} of {seen.num}: what {lines[0]} computed then",
            "Empty the list of losses at every step, keep `.item()` or `.detach()` of what is kept, and detach a state "
            "that is carried on. As it is, the second backward pass raises, or trains on all batches since the first.",
            {"batches": len(lines)},
        )


CHECK = Check("sum-mismatch", _judge, _measure, needs_code=True)
