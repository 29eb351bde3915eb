"""A finding, and the check that makes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.measures.declared import Declared
from headwise.attribution.audit.measures.rows import Measured, Rows


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or worth a note.

    Args:
        subject: The loss, output, parameter, or part of the training code.
        evidence: What was measured, in words with its numbers.
        remedy: What to do.
        numbers: The numbers alone, by name.
        kind: What; the check that found it fills this in, and the next.
        is_note: Whether it counts only under ``strict``.
    """

    subject: str
    evidence: str
    remedy: str
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    kind: str = ""
    is_note: bool = False

    def as_dict(self) -> dict[str, object]:
        """The finding for JSON, in which a number that is not finite is null."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "evidence": self.evidence,
            "remedy": self.remedy,
            "note": self.is_note,
            "numbers": {key: v if v is not None and math.isfinite(v) else None for key, v in self.numbers.items()},
        }


@dataclass(frozen=True)
class Open:
    """Something that these batches could not show.

    Args:
        subject: What stays unjudged.
        reason: Why.
    """

    subject: str
    reason: str


@dataclass(frozen=True)
class Seen:
    """What a check judges: the numbers of all batches.

    Attributes:
        batches: The batches' numbers.
        measured: What the check itself measured, per batch.
        declared: What is meant.
        plan: The training code; None for a step that was computed already.
        told: What was found so far.
    """

    batches: tuple[Rows, ...]
    measured: tuple[Any, ...]
    declared: Declared
    plan: Subject | None
    told: tuple[Finding, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The losses of any batch, in order."""
        return tuple(dict.fromkeys(name for batch in self.batches for name in batch.names))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of any batch that can be trained."""
        return tuple(dict.fromkeys(path for batch in self.batches for path in batch.outputs))

    @property
    def num(self) -> str:
        """How many batches there are, in words."""
        return counted(len(self.batches), "batch", "batches")

    @property
    def by_name(self) -> dict[str, list[Any]]:
        """What the check measured by names, of the batches that have any."""
        found: dict[str, list[Any]] = {}
        for own in self.measured:
            for name, each in (own or {}).items():
                found.setdefault(name, []).append(each)
        return found

    def holding(self, name: str) -> list[Rows]:
        """The batches that have a loss."""
        return [batch for batch in self.batches if name in batch.names]

    def is_meant_zero(self, name: str) -> bool:
        """Whether the loss is meant to have no weight."""
        said = name in self.declared.zero or any(batch.weights.get(name) == 0 for batch in self.batches)
        return said or all(name in batch.silenced for batch in self.holding(name))


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else many}"


def in_all(number: int) -> str:
    """How many batches something is the case in, where it is in all of them."""
    return "the one batch" if number == 1 else f"all of {number} batches"


Judge: TypeAlias = Callable[[Seen], Iterator[Finding | Open]]
Measure: TypeAlias = Callable[[Measured, Any], Any]


@dataclass(frozen=True)
class Check:
    """One kind of finding: what it measures on each batch, and how it judges all of them.

    Args:
        kind: The kind of its findings.
        judge: From the numbers of all batches to what is found.
        measure: From a step (with its graphs and gradients) and the training code to what `judge` needs besides.
        needs_code: Whether a step that was computed already does not suffice for it.
        calls_again: Whether it calls the code in another way than training does; if the code objects, it stays open.
        is_note: Whether what it finds counts only under ``strict``.
    """

    kind: str
    judge: Judge
    measure: Measure | None = None
    needs_code: bool = False
    calls_again: bool = False
    is_note: bool = False

    def findings(self, seen: Seen) -> Iterator[Finding | Open]:
        """What the check says of all batches.

        Args:
            seen: Their numbers.

        Yields:
            Findings of its kind, and what it had to leave open.
        """
        for each in self.judge(seen):
            yield each if isinstance(each, Open) else replace(each, kind=self.kind, is_note=self.is_note)
