"""Audit somebody's training code: measure every batch, then judge all of them together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from headwise.attribution.audit.code.callables import callables_behind
from headwise.attribution.audit.code.guard import held_still
from headwise.attribution.audit.code.step import computed_step, first_step
from headwise.attribution.audit.code.subject import GraphSubject, Subject, as_subject
from headwise.attribution.audit.findings import CHECKS, Check, Finding, Open, Seen
from headwise.attribution.audit.measures.declared import (
    Declared,
    criterion_parameters,
    declared_by,
    parameters_of,
    regions_of,
)
from headwise.attribution.audit.measures.rows import Measured, Rows, measure
from headwise.attribution.audit.report import AuditReport, report_of
from headwise.attribution.text import first_line


def audit(subject: Any, *, strict: bool = False) -> AuditReport:
    """Look for what trains wrongly in training code that returns a loss, or a tuple, list or dict of losses.

    The code runs on copies: parameters, buffers, gradients, modes, random state and grad mode end as they began.
    What `backward` is called on is judged first: that a loss is dropped, counted twice or has a factor are statements
    on its gradient. Each kind is judged over all batches, by numbers relative to the losses' own.

    Args:
        subject: A `Subject`, a dict with its fields, or ``(model, losses)`` or ``(model, outputs, losses)`` of one
            step that was computed already.
        strict: Whether notes set the exit code.

    Returns:
        The findings, and what could not be audited.

    Raises:
        ValueError: The subject is not understood, or its code raises; the message has the line.
    """
    plan = as_subject(subject)
    others = () if isinstance(plan, GraphSubject) else callables_behind(plan.criterion, plan.total, model=plan.model)
    with _warnings() as warned, held_still(plan.model, *others):
        evidence = _of_graph(plan) if isinstance(plan, GraphSubject) else _of_subject(plan)
        findings, left = evidence.judged()
    findings = (*(f for f in findings if not f.is_note), *(f for f in findings if f.is_note))
    return report_of(evidence.batches, findings, evidence.unaudited | left, evidence.declared, tuple(warned), strict)


@dataclass
class Evidence:
    """What was measured on all batches.

    Args:
        plan: The training code; None for a step that was computed already.
        declared: What is meant.
        checks: What is looked for.
    """

    plan: Subject | None
    declared: Declared
    checks: Sequence[Check] = CHECKS
    batches: list[Rows] = field(default_factory=list)
    own: list[list[Any]] = field(default_factory=list)
    unaudited: dict[str, str] = field(default_factory=dict)

    def add(self, found: Measured) -> None:
        """Takes what the checks need from a step.

        Args:
            found: The step.
        """
        self.batches.append(found.rows)
        self.own.append([self._measured(check, found) for check in self.checks])

    def _measured(self, check: Check, found: Measured) -> Any:
        if check.measure is None or (check.needs_code and self.plan is None):
            return None
        try:
            return check.measure(found, self.plan)
        except Exception as error:
            if not check.calls_again:
                raise
            # The first call went through; a repetition that fails leaves this kind open, and the report says so.
            self.unaudited[check.kind] = first_line(error)
            return None
        finally:
            torch.set_grad_enabled(True)

    def judged(self) -> tuple[tuple[Finding, ...], dict[str, str]]:
        """What the checks say of all batches, and what they had to leave open, with the reason."""
        findings: list[Finding] = []
        left: dict[str, str] = {}
        for check, own in zip(self.checks, zip(*self.own, strict=True), strict=True):
            seen = Seen(tuple(self.batches), own, self.declared, self.plan, tuple(findings))
            for each in check.findings(seen):
                if isinstance(each, Open):
                    left[each.subject] = each.reason
                else:
                    findings.append(each)
        return tuple(findings), left


def _of_graph(plan: GraphSubject) -> Evidence:
    parameters, frozen = parameters_of(plan.model, ())
    evidence = Evidence(None, Declared({name: each.numel() for name, each in parameters.items()}, frozen))
    evidence.add(measure(computed_step(plan), parameters, plan.model))
    reason = "the losses were computed already: give a dict with model, batches and criterion"
    evidence.unaudited |= {check.kind: reason for check in CHECKS if check.needs_code}
    return evidence


def _of_subject(plan: Subject) -> Evidence:
    parameters, frozen = parameters_of(plan.model, plan.frozen_patterns)
    criterion = criterion_parameters(plan)
    evidence = Evidence(plan, Declared({}))
    regions = {}
    for batch in plan.first_batches():
        step = first_step(plan, batch)
        evidence.add(measure(step, parameters | criterion, plan.model))
        regions.update(regions_of(plan, step))
    evidence.declared = declared_by(plan, evidence.batches, regions, parameters, frozen, criterion)
    evidence.unaudited |= evidence.declared.misfits
    return evidence


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the code warned of, told once although it runs many times."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    kept = [each for each in caught if not each.filename.startswith(os.path.dirname(__file__))]
    first = {f"{os.path.basename(w.filename)}:{w.lineno}": str(w.message).splitlines()[0] for w in reversed(kept)}
    told += [f"{place} {text}" for place, text in reversed(first.items())]
