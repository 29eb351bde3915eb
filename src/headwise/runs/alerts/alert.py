"""What an alert says: what, since when, by what it was seen, and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from typing import Any, Literal

from headwise.attribution.ledger.samples.samples import TermSamples
from headwise.tabular import Tabular

Kind = Literal["not finite", "dead", "spiking", "dominating", "fighting", "drifting weight", "unbooked"]

TOTAL = "total"
"""What an alert names that is about the whole loss."""


PAIR = " | "
"""What stands between two terms that fight."""

_NAMED = 3


@dataclass(frozen=True)
class Alert(Tabular):
    """Something that goes wrong in a run.

    Args:
        kind: What.
        term: Whose: a term's name, two joined by `` | `` where they fight, or "total".
        since: The first logged step at which it was so.
        step: The logged step at which it was certain.
        evidence: The numbers of the books that show it; a whole sentence.
        remedy: What to look at; a whole sentence.
        samples: Those of that step with the largest gradient of the term, the largest first, where a ledger keeps them.
    """

    kind: Kind
    term: str
    since: int
    step: int
    evidence: str
    remedy: str
    samples: tuple[str, ...] = ()

    def table_rows(self) -> list[dict[str, Any]]:
        """The one row."""
        return [{**asdict(self), "samples": ", ".join(self.samples)}]

    def __str__(self) -> str:
        said = f"{self.term}: {self.kind} since step {self.since}. {self.evidence} {self.remedy}"
        largest = f" Samples of step {self.step} with its largest gradient: {', '.join(self.samples)}."
        return said + (largest if self.samples else "")

    def blaming(self, samples: Mapping[str, TermSamples], name: Callable[[Any], str] = str) -> Alert:
        """The alert with the step's samples.

        Args:
            samples: Of the step, by term.
            name: What to call a sample.

        Returns:
            The same; of two terms the samples of both, of the total those with the largest gradient of all terms.
        """
        pairs = [pair for pair in permutations(samples, 2) if PAIR.join(pair) == self.term]
        terms = [self.term] if self.term in samples else [*pairs[0]] if pairs else list(samples)
        sizes: dict[Any, float] = {}
        for term in terms:
            for each in samples[term].by_gradient:
                sizes[each.id] = math.hypot(sizes.get(each.id, 0.0), each.grad_norm)
        first = sorted(sizes, key=lambda sample: -sizes[sample])[:_NAMED]
        return replace(self, samples=tuple(name(each) for each in first))


class Alerts(list[Alert], Tabular):
    """The alerts of a run, in the order in which they came: a list that a notebook shows as a table."""

    def table_rows(self) -> list[dict[str, Any]]:
        """A row an alert."""
        return [row for each in self for row in each.table_rows()]

    def table_title(self) -> str:
        """How many there are."""
        return f"{len(self)} alert{'' if len(self) == 1 else 's'}"


class AlertError(RuntimeError):
    """A run was to end at an alert.

    Args:
        alert: Which.
    """

    def __init__(self, alert: Alert) -> None:
        super().__init__(str(alert))
        self.alert = alert
