"""What an audit returns: findings, what was looked at, and what could not be."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from headwise.attribution.audit.findings import Finding
from headwise.attribution.audit.findings.finding import counted
from headwise.attribution.audit.findings.gradients.conflict import cosine
from headwise.attribution.audit.measures.declared import Declared
from headwise.attribution.audit.measures.rows import Rows
from headwise.attribution.audit.tables import Stands, SummandRow, in_no_loss, norms_of, standing_rows, summand_rows
from headwise.attribution.text import columns, names, wrapped
from headwise.tabular import Tabular

Table = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class AuditReport(Tabular):
    """The outcome of `audit`.

    Args:
        findings: The findings, then the notes.
        num_batches: How many batches were looked at.
        losses: The losses' names.
        outputs: The outputs that can be trained.
        num_parameters: How many numbers can be trained.
        total: What was taken for what backward is called on, in words.
        standings: Per loss its value, its factor in the total and its share of it: medians over the batches.
        summands: What a total adds that is no loss by name.
        unaudited: Kinds that could not be judged, with the reason.
        misfits: What the subject declares for something that there is not, with the reason.
        at_outputs: Median gradient norm per loss and output (level "output", exact), not weighted.
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
    total: str = ""
    standings: Mapping[str, Stands] = field(default_factory=dict)
    summands: tuple[SummandRow, ...] = ()
    unaudited: Mapping[str, str] = field(default_factory=dict)
    misfits: tuple[str, ...] = ()
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
        """2 where something is declared for nothing, so that it was not audited; else 1 with findings, 0 without.

        Notes count under ``strict``.
        """
        return 2 if self.misfits else 1 if (self.findings if self.strict else self.faults) else 0

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
            "total": self.total,
            "in_the_total": {name: row.as_dict() for name, row in self.standings.items()},
            "summands": [each.as_dict() for each in self.summands],
            "not_audited": dict(self.unaudited),
            "warnings": list(self.warned),
            "gradient_norms": {
                "outputs": {loss: dict(row) for loss, row in self.at_outputs.items()},
                "parameters": {loss: dict(row) for loss, row in self.at_groups.items()},
            },
            "cosines": {loss: dict(row) for loss, row in self.cosines.items()},
        }

    def table_rows(self) -> list[dict[str, Any]]:
        """A row per finding, notes last."""
        return [{key: v for key, v in each.as_dict().items() if key != "numbers"} for each in self.findings]

    def table_title(self) -> str:
        """What was found and looked at."""
        return self.summary()

    def to_json(self) -> str:
        """The report as JSON text: ``{"findings": [{"kind", "subject", "evidence", "remedy", ...}], ...}``."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    def summary(self) -> str:
        """One sentence on what was found and looked at."""
        count, notes = len(self.faults), len(self.notes)
        return (
            f"{count or 'no'} finding{'s' if count != 1 else ''}, {notes or 'no'} note{'s' if notes != 1 else ''}: "
            f"{counted(len(self.losses), 'loss', 'losses')}, {counted(len(self.outputs), 'output', 'outputs')} and "
            f"{counted(self.num_parameters, 'trainable number', 'trainable numbers')} over "
            f"{counted(self.num_batches, 'batch', 'batches')}"
        )

    def __str__(self) -> str:
        parts = [wrapped(f"audit: {self.summary()}")]
        if self.total:
            parts.append(wrapped(f"The total, on which backward is called, is taken to be {self.total}."))
        parts += [each for each in (_standings(self), _summands(self), _gradients(self)) if each]
        parts += _told(self.findings)
        if self.unaudited:
            reasons: dict[str, list[str]] = {}
            for kind, reason in self.unaudited.items():
                reasons.setdefault(reason, []).append(kind)
            parts.append("\n".join(wrapped(f"not audited: {names(k, 15)}: {reason}") for reason, k in reasons.items()))
        if self.warned:
            parts.append("\n".join(wrapped(f"the code warned: {text}") for text in self.warned))
        return "\n\n".join(parts)


def _standings(report: AuditReport) -> str:
    rows = [[name, *row.cells()] for name, row in report.standings.items()]
    return columns(["loss", "value", "factor (weight) in the total", "share of the total", ""], rows)


def _summands(report: AuditReport) -> str:
    if not report.summands:
        return ""
    rows = [[each.line, *each.cells()] for each in report.summands]
    return columns(["summand of the total", "factor", "gradient norm, not weighted"], rows)


def _gradients(report: AuditReport) -> str:
    if not (report.at_outputs and report.outputs):
        return ""
    shown = list(report.at_outputs)
    rows = [[path, *(_cell(report.at_outputs, loss, path) for loss in shown)] for path in report.outputs]
    return columns(["gradient norm at (not weighted)", *shown], rows)


def _cell(table: Table, loss: str, site: str) -> str:
    value = table.get(loss, {}).get(site)
    return "-" if value is None else f"{value:.4g}"


def _told(findings: Sequence[Finding]) -> list[str]:
    """One text for each fact: findings of a kind with the same remedy stand together."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        # What differs between two findings of one fact is in the evidence.
        groups.setdefault((finding.kind, finding.remedy), []).append(finding)
    parts = []
    for (kind, remedy), each in groups.items():
        head = "note" if each[0].is_note else "FINDING"
        count = f" ({len(each)} times)" if len(each) > 1 else ""
        lines = [f"{head}  {kind}: {names([finding.subject for finding in each], 12)}{count}"]
        own = [f"{finding.subject}: " if len(each) > 1 else "" for finding in each]
        lines += [f"    {name}{finding.evidence}" for name, finding in list(zip(own, each, strict=True))[:3]]
        lines += [f"    and {len(each) - 3} more alike"] if len(each) > 3 else []
        parts.append("\n".join(wrapped(line) for line in [*lines, f"    Remedy: {remedy}"]))
    return parts


def report_of(
    batches: Sequence[Rows],
    findings: tuple[Finding, ...],
    unaudited: Mapping[str, str],
    declared: Declared,
    warned: tuple[str, ...],
    strict: bool,
) -> AuditReport:
    """The report of what was measured and judged.

    Args:
        batches: The batches' numbers.
        findings: What was found.
        unaudited: What was not judged, and why.
        declared: What is meant.
        warned: What the code warned of.
        strict: Whether notes set the exit code.

    Returns:
        The report.
    """
    losses = tuple(dict.fromkeys(name for batch in batches for name in batch.names))
    groups = tuple(dict.fromkeys(group for batch in batches for group in batch.groups))
    outputs = tuple(dict.fromkeys(path for batch in batches for path in batch.outputs))
    return AuditReport(
        findings=findings,
        num_batches=len(batches),
        losses=losses,
        outputs=outputs,
        num_parameters=sum(declared.parameters.values()),
        total=batches[0].total_told,
        standings=standing_rows(batches, losses),
        summands=summand_rows(batches),
        unaudited=unaudited,
        misfits=tuple(declared.misfits),
        at_outputs=norms_of(batches, losses, outputs) | in_no_loss(batches, outputs),
        at_groups=norms_of(batches, losses, groups),
        cosines=_cosines(batches, losses, groups),
        warned=warned,
        strict=strict,
    )


def _cosines(batches: Sequence[Rows], losses: Sequence[str], groups: Sequence[str]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for left, right in combinations(losses, 2):
        found = [c for batch in batches for g in groups if (c := cosine(batch, g, left, right)) is not None]
        if found:
            table.setdefault(left, {})[right] = statistics.median(found)
    return table
