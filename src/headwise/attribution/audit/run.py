"""Audit somebody's training code: measure every batch, then judge all of them together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from headwise.attribution.audit.callables import callables_behind
from headwise.attribution.audit.declared import Declared, criterion_parameters, declared_by, parameters_of, regions_of
from headwise.attribution.audit.findings import CHECKS, Check, Finding, Open, Seen
from headwise.attribution.audit.guard import held_still
from headwise.attribution.audit.report import AuditReport, report_of
from headwise.attribution.audit.rows import Measured, Rows, measure
from headwise.attribution.audit.step import computed_step, first_step
from headwise.attribution.audit.subject import GraphSubject, Subject, as_subject


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
        measured = _of_graph(plan) if isinstance(plan, GraphSubject) else _of_subject(plan)
        findings, left = _judged(measured, None if isinstance(plan, GraphSubject) else plan)
    declared = measured.declared
    return report_of(measured.batches, findings, measured.unaudited | left, declared, tuple(warned), strict)


@dataclass
class _Audit:
    """What was measured on all batches."""

    batches: list[Rows]
    own: dict[int, list[Any]]
    declared: Declared
    unaudited: dict[str, str]


def _of_graph(plan: GraphSubject) -> _Audit:
    parameters, frozen = parameters_of(plan.model, ())
    found = measure(computed_step(plan), parameters, plan.model)
    reason = "the losses were computed already: give a dict with model, batches and criterion"
    unaudited = {check.kind: reason for check in CHECKS if check.needs_code}
    own = {index: [_measured(check, found, None, unaudited)] for index, check in enumerate(CHECKS)}
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    return _Audit([found.rows], own, Declared(sizes, frozen), unaudited)


def _of_subject(plan: Subject) -> _Audit:
    parameters, frozen = parameters_of(plan.model, plan.frozen_patterns)
    criterion = criterion_parameters(plan)
    batches: list[Rows] = []
    own: dict[int, list[Any]] = {index: [] for index in range(len(CHECKS))}
    unaudited: dict[str, str] = {}
    regions = {}
    for batch in plan.first_batches():
        step = first_step(plan, batch)
        found = measure(step, parameters | criterion, plan.model)
        batches.append(found.rows)
        for index, check in enumerate(CHECKS):
            own[index].append(_measured(check, found, plan, unaudited))
        regions.update(regions_of(plan, step))
    declared = declared_by(plan, batches, regions, parameters, frozen, criterion)
    return _Audit(batches, own, declared, unaudited | dict(declared.misfits))


def _measured(check: Check, found: Measured, plan: Subject | None, unaudited: dict[str, str]) -> Any:
    if check.measure is None or (check.needs_code and plan is None):
        return None
    if not check.calls_again:
        return check.measure(found, plan)
    try:
        return check.measure(found, plan)
    except Exception as error:
        # The first call went through; a repetition that fails leaves this kind open, and the report says so.
        unaudited[check.kind] = str(error).splitlines()[0] if str(error) else type(error).__name__
        return None
    finally:
        torch.set_grad_enabled(True)


def _judged(measured: _Audit, plan: Subject | None) -> tuple[tuple[Finding, ...], dict[str, str]]:
    findings: list[Finding] = []
    left: dict[str, str] = {}
    for index, check in enumerate(CHECKS):
        seen = _seen(measured, measured.own[index], plan, findings)
        for each in check.findings(seen):
            if isinstance(each, Open):
                left[each.subject] = each.reason
            else:
                findings.append(each)
    return (*(f for f in findings if not f.is_note), *(f for f in findings if f.is_note)), left


def _seen(measured: _Audit, own: Sequence[Any], plan: Subject | None, told: Sequence[Finding]) -> Seen:
    declared = measured.declared
    return Seen(
        tuple(measured.batches), tuple(own), declared.parameters, declared.frozen, declared.criterion_parameters,
        declared.regions, declared.weights, declared.zero, plan, tuple(told),
    )  # fmt: skip


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
