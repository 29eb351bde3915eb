"""A step made again from the same state, once for all checks that need it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from headwise.attribution.audit.code.cut import CutSummand, CutWatch
from headwise.attribution.audit.code.step import Step, called_on_input, run_step
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.code.syncs import SyncCounter
from headwise.attribution.audit.measures.rows import Measured
from headwise.attribution.jacobians.held import kept_buffers

_MOVES = 1e-5


@dataclass(frozen=True)
class Repetition:
    """What a step showed that was made again.

    Attributes:
        values: The losses' values.
        places: Where it would have waited for a device, how often.
        cut: What the total adds without a graph although it depends on what is trained.
    """

    values: Mapping[str, float]
    places: Mapping[str, int]
    cut: tuple[CutSummand, ...]


def repeated(measured: Measured, subject: Subject) -> Repetition:
    """The same step again.

    Args:
        measured: The step.
        subject: The training code.

    Returns:
        What it showed.
    """
    if measured.again is None:
        counter, watch = SyncCounter(), CutWatch()
        with kept_buffers(subject.model, subject.criterion):
            step = _run(subject, measured.step.batch, watch, counter)
        found = (*step.parts.terms, *step.parts.logs)
        named = {each.name: each.value for each in found if isinstance(each.value, torch.Tensor)}
        cut = _moved(subject, measured.step.batch, watch, watch.cut_from(step.total, named))
        measured.again = Repetition(values_of(step), dict(counter.places), cut)
    again: Repetition = measured.again
    return again


def values_of(step: Step) -> dict[str, float]:
    """The losses' values."""
    return {term.name: term.number for term in step.parts.terms}


def _moved(subject: Subject, batch: Any, watch: CutWatch, cut: Mapping[int, CutSummand]) -> tuple[CutSummand, ...]:
    """Those of the summands that are other numbers when other parameters are in the place of the trained ones."""
    if not cut:
        return ()
    same, other = CutWatch(), CutWatch()
    _run(subject, batch, same)
    with _shaken(subject.model, subject.criterion):
        _run(subject, batch, other)
    if not len(watch.summands) == len(same.summands) == len(other.summands):
        return ()
    still = {number for number, each in cut.items() if _is_close(each.value, same.summands[number].value)}
    return tuple(each for n, each in cut.items() if n in still and not _is_close(each.value, other.summands[n].value))


def _is_close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=_MOVES)


@contextmanager
def _shaken(*owners: Any) -> Iterator[None]:
    modules = [owner for owner in owners if isinstance(owner, nn.Module)]
    kept = [(p, p.detach().clone()) for owner in modules for p in owner.parameters() if p.requires_grad]
    draw = torch.Generator().manual_seed(0)
    try:
        for parameter, value in kept:
            noise = torch.randn(value.shape, generator=draw).to(value.device, value.dtype)
            parameter.data.add_(noise * (0.1 + value.abs().mean()))
        yield
    finally:
        for parameter, value in kept:
            parameter.data.copy_(value)


def _run(subject: Subject, batch: Any, watch: CutWatch, counter: SyncCounter | None = None) -> Step:
    if counter is not None:
        subject = replace(
            subject,
            criterion=_inside(counter, subject.criterion),
            forward=_inside(counter, subject.forward or called_on_input),
            total=None if subject.total is None else _inside(counter, subject.total),
        )
    with watch:  # also what is cloned between the audited functions
        return run_step(subject, batch)


def _inside(counter: SyncCounter, function: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*args: Any) -> Any:
        with counter:
            return function(*args)

    return watched
