"""What a reader should not miss, in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from headwise.report.page.markup import number, percent
from headwise.report.sections.evaluations import headline
from headwise.runs.log_reading import Column
from headwise.runs.reading import Recording

Finding = tuple[str, str]
"""A kind (problem, note or good) and a sentence."""

_DOMINANT_SHARE = 0.99


def find(run: Recording) -> list[Finding]:
    """Findings on a run, the gravest first.

    Args:
        run: what the run left.

    Returns:
        Problems (a term that trains nothing, a value or gradient that is not finite), then notes (an output that a
        term reads and does not train, a term over 99 % of the total, files missing or cut off),
        or one line that all is well.
    """
    problems = [("problem", text) for name in run.terms for text in (*_silent(run, name), *_not_finite(run, name))]
    notes = [("note", text) for name in run.terms for text in (*_held(run, name), *_dominant(run, name))]
    notes += [("note", text) for text in (*_decline(run), *run.remarks)]
    if run.log.steps and not problems:
        steps = "1 logged step" if len(run.log.steps) == 1 else f"{len(run.log.steps):,} logged steps"
        told = f"{steps}: each term's value and gradient is finite, and of no term is the gradient zero throughout."
        notes.append(("good", told))
    return problems + notes


def _silent(run: Recording, name: str) -> Iterator[str]:
    """A term whose gradient is 0 at all logged steps."""
    norms = _logged(run.term(name, "grad_norm"))
    if norms and not any(norms):
        weights = _logged(run.term(name, "weight"))
        cause = (
            "Its weight is 0 throughout."
            if weights and not any(weights)
            else "Look at its mask, its weight, and whether its output is detached from the network."
        )
        yield f"{name}: gradient norm 0 at {_all(norms)}, so it trains nothing. {cause}"


def _all(steps: Sequence[float]) -> str:
    return f"all {len(steps):,} logged steps" if len(steps) > 1 else "the only logged step"


def _held(run: Recording, name: str) -> Iterator[str]:
    """An output that the term reads and does not train, beside one that it trains: many a loss detaches one of two."""
    paths = run.log.names("terms", name, "outputs")
    norms = {path: _logged(run.log.column("terms", name, "outputs", path, "grad_norm")) for path in paths}
    if not any(any(each) for each in norms.values()):
        return
    for path, each in norms.items():
        if each and not any(each):
            yield (
                f"{name}: gradient norm 0 at output {path} at {_all(each)}, while it trains others: "
                "right if the loss holds that output fixed."
            )


def _not_finite(run: Recording, name: str) -> Iterator[str]:
    """Steps at which the term's value or its gradient at an output was not finite."""
    of_value = _steps_where(run, run.term(name, "value"), lambda v: not math.isfinite(v))
    if of_value:
        yield f"{name}: value not finite at {_at(of_value)}."
    explained = set(of_value)
    for path in run.log.names("terms", name, "outputs"):
        flags = run.log.column("terms", name, "outputs", path, "finite")
        steps = _steps_where(run, flags, lambda v: v != 1.0)
        if steps:
            explained.update(steps)
            yield f"{name}: gradient at output {path} not finite at {_at(steps)}."
    # The flag is of value and gradient.
    rest = [step for step in _steps_where(run, run.term(name, "finite"), lambda v: v != 1.0) if step not in explained]
    if rest:
        yield f"{name}: gradient not finite at {_at(rest)}."


def _dominant(run: Recording, name: str) -> Iterator[str]:
    shares = run.term(name, "share")
    steps = _steps_where(run, shares, lambda v: v > _DOMINANT_SHARE)
    if steps and len(run.terms) > 1:
        highest = max(v for v in _logged(shares) if math.isfinite(v))
        yield f"{name}: more than 99 % of the total at {_at(steps)} (at most {percent(highest)})."


def _decline(run: Recording) -> Iterator[str]:
    """An evaluation that ended well below its best."""
    judged = headline(run)
    if judged is not None and judged.higher_is_better and max(judged.values)[0] - judged.values[-1][0] > 0.05:
        best, step = max(judged.values)
        final = number(judged.values[-1][0])
        yield f"{judged.name} was {number(best)} at step {step} and {final} at the last evaluation."


def _logged(column: Column) -> list[float]:
    return [value for value in column if value is not None]


def _steps_where(run: Recording, column: Column, condition: Callable[[float], bool]) -> list[int]:
    return [step for step, v in zip(run.log.steps, column, strict=True) if v is not None and condition(v)]


def _at(steps: Sequence[int]) -> str:
    return (
        f"step {steps[0]}" if len(steps) == 1 else f"{len(steps):,} logged steps (first {steps[0]}, last {steps[-1]})"
    )
