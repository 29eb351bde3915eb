"""What an alert says: what, since when, by what it was seen, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["not finite", "dead", "spiking", "dominating", "fighting", "drifting weight", "unbooked"]

TOTAL = "total"
"""What an alert names that is about the whole loss."""


@dataclass(frozen=True)
class Alert:
    """Something that goes wrong in a run.

    Args:
        kind: What.
        term: Whose: a term's name, two joined by `` | `` where they fight, or "total".
        since: The first logged step at which it was so.
        step: The logged step at which it was certain.
        evidence: The numbers of the books that show it; a whole sentence.
        remedy: What to look at; a whole sentence.
    """

    kind: Kind
    term: str
    since: int
    step: int
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.term}: {self.kind} since step {self.since}. {self.evidence} {self.remedy}"


class AlertError(RuntimeError):
    """A run was to end at an alert.

    Args:
        alert: Which.
    """

    def __init__(self, alert: Alert) -> None:
        super().__init__(str(alert))
        self.alert = alert
