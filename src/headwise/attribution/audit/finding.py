"""One finding of an audit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal[
    "sum-mismatch", "detached-loss", "dead-loss", "untrained-output", "unreached-parameter", "outside-mask",
    "rotated-names", "nonfinite-gradient", "mutated-input", "grad-mode", "split-variant", "random-draw", "host-sync",
    "dominance", "conflict",
]  # fmt: skip

KINDS: tuple[Kind, ...] = get_args(Kind)
NOTES: frozenset[Kind] = frozenset({"split-variant", "random-draw", "host-sync", "dominance", "conflict"})


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or worth a note.

    Args:
        kind: What.
        subject: The loss, output, parameter, or part of the training code.
        evidence: What was measured, in words with its numbers.
        remedy: What to do.
        numbers: The numbers alone, by name.
    """

    kind: Kind
    subject: str
    evidence: str
    remedy: str
    numbers: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def is_note(self) -> bool:
        """Whether it counts only under ``strict``."""
        return self.kind in NOTES

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
