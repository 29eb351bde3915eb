"""What an audit returns: findings, what was looked at, and what could not be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from headwise.attribution.audit.finding import Finding
from headwise.attribution.tracing.text import columns, names, wrapped

Table = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class AuditReport:
    """The outcome of `audit`.

    Args:
        findings: The findings, then the notes.
        num_batches: How many batches were looked at.
        losses: The losses' names.
        outputs: The outputs that can be trained.
        num_parameters: How many parameters can be trained.
        unaudited: Kinds that could not be judged, with the reason.
        at_outputs: Median gradient norm per loss and output (level "output", exact).
        at_groups: The same per group of parameters (level "parameter", exact).
        cosines: Median cosine per pair of losses, over all parameters that both reach.
        warned: What the code warned of while it ran.
        strict: Whether notes set the exit code.
    """

    findings: tuple[Finding, ...]
    num_batches: int
    losses: tuple[str, ...]
    outputs: tuple[str, ...]
    num_parameters: int
    unaudited: Mapping[str, str] = field(default_factory=dict)
    at_outputs: Table = field(default_factory=dict)
    at_groups: Table = field(default_factory=dict)
    cosines: Table = field(default_factory=dict)
    warned: tuple[str, ...] = ()
    strict: bool = False

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that are no notes."""
        return tuple(finding for finding in self.findings if not finding.is_note)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """The notes."""
        return tuple(finding for finding in self.findings if finding.is_note)

    @property
    def exit_code(self) -> int:
        """0 without findings, 1 with; notes count under ``strict``."""
        return 1 if (self.findings if self.strict else self.faults) else 0

    def as_dict(self) -> dict[str, object]:
        """The report as plain data."""
        return {
            "findings": [finding.as_dict() for finding in self.findings],
            "exit_code": self.exit_code,
            "strict": self.strict,
            "batches": self.num_batches,
            "losses": list(self.losses),
            "outputs": list(self.outputs),
            "parameters": self.num_parameters,
            "not_audited": dict(self.unaudited),
            "warnings": list(self.warned),
            "gradient_norms": {
                "outputs": {loss: dict(row) for loss, row in self.at_outputs.items()},
                "parameters": {loss: dict(row) for loss, row in self.at_groups.items()},
            },
            "cosines": {loss: dict(row) for loss, row in self.cosines.items()},
        }

    def to_json(self) -> str:
        """The report as JSON text: ``{"findings": [{"kind", "subject", "evidence", "remedy", ...}], ...}``."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    def summary(self) -> str:
        """One sentence on what was found and looked at."""
        count, notes = len(self.faults), len(self.notes)
        return (
            f"{count or 'no'} finding{'s' if count != 1 else ''}, {notes or 'no'} note{'s' if notes != 1 else ''}: "
            f"{_counted(len(self.losses), 'loss', 'losses')}, {_counted(len(self.outputs), 'output', 'outputs')} and "
            f"{_counted(self.num_parameters, 'trainable parameter', 'trainable parameters')} over "
            f"{_counted(self.num_batches, 'batch', 'batches')}"
        )

    def __str__(self) -> str:
        parts = [wrapped(f"audit: {self.summary()}")]
        if self.at_outputs and self.outputs:
            header = ["gradient norm at", *self.losses]
            rows = [[path, *(_cell(self.at_outputs, loss, path) for loss in self.losses)] for path in self.outputs]
            parts.append(columns(header, rows))
        for finding in self.findings:
            lines = [f"{'note' if finding.is_note else 'FINDING'}  {finding.kind}: {finding.subject}"]
            lines += [f"    {finding.evidence}", f"    Remedy: {finding.remedy}"]
            parts.append("\n".join(wrapped(line) for line in lines))
        if self.unaudited:
            reasons: dict[str, list[str]] = {}
            for kind, reason in self.unaudited.items():
                reasons.setdefault(reason, []).append(kind)
            parts.append("\n".join(wrapped(f"not audited: {names(k, 15)}: {reason}") for reason, k in reasons.items()))
        if self.warned:
            parts.append("\n".join(wrapped(f"the code warned: {text}") for text in self.warned))
        return "\n\n".join(parts)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _cell(table: Table, loss: str, site: str) -> str:
    value = table.get(loss, {}).get(site)
    return "-" if value is None else f"{value:.4g}"
