"""One forward and backward pass of a loss, by whoever computes it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import headwise as hw
from benchmarks.gpu.bench import Run
from benchmarks.gpu.cases import Case
from benchmarks.gpu.systems import System


def ours(system: System, inputs: list[Tensor], compiled: bool, booked: bool) -> Run:
    """A step of the preset; an open ledger lives as long as the step."""
    criterion = system.preset(compile=compiled)
    ledger = hw.Ledger(criterion) if booked else None
    return step(lambda: criterion(system.outputs, system.targets).total, inputs, ledger)


def step(total: Callable[[], Tensor], inputs: list[Tensor], kept: object = None) -> Run:
    """Forward and backward; `kept` is held alive."""

    def run() -> tuple[object, ...]:
        for each in inputs:
            each.grad = None
        total().backward()
        return inputs, kept

    return run


def alone(case: Case, compiled: bool) -> Run:
    criterion = hw.Criterion([case.term], compile=compiled)
    return step(lambda: criterion(case.outputs, case.targets).total, list(case.outputs.values()))


def plain(case: Case) -> Run:
    """What others write for a loss."""
    inputs = list(case.outputs.values())
    given = [*inputs, *case.targets.values()]
    return step(lambda: case.peer(*given), inputs)
