"""A step made again from the same state, once for all checks that need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from headwise.attribution.audit.code.step import Step, called_on_input, run_step
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.code.syncs import SyncCounter
from headwise.attribution.audit.measures.rows import Measured
from headwise.attribution.jacobians.held import kept_buffers


def repeated(measured: Measured, subject: Subject) -> tuple[Mapping[str, float], Mapping[str, int]]:
    """The same step again.

    Args:
        measured: The step.
        subject: The training code.

    Returns:
        The losses' values, and where it would have waited for a device, how often.
    """
    if measured.again is None:
        counter = SyncCounter()
        watched = replace(
            subject,
            criterion=_inside(counter, subject.criterion),
            forward=_inside(counter, subject.forward or called_on_input),
            total=None if subject.total is None else _inside(counter, subject.total),
        )
        with kept_buffers(subject.model, subject.criterion):
            values = values_of(run_step(watched, measured.step.batch))
        measured.again = values, dict(counter.places)
    return measured.again


def values_of(step: Step) -> dict[str, float]:
    """The losses' values."""
    return {term.name: term.number for term in step.parts.terms}


def _inside(counter: SyncCounter, function: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*args: Any) -> Any:
        with counter:
            return function(*args)

    return watched
