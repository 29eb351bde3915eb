"""What the books say, in sentences with numbers, each with the figure that shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headwise.attribution.ledger.weighing.suggestion import suggest
from headwise.report.page.blocks import Remark
from headwise.report.page.markup import number
from headwise.report.sections.evaluations import headline
from headwise.runs.alerts import Alert, replay
from headwise.runs.columns import finite, median, or_nan
from headwise.runs.log_reading import Column
from headwise.runs.reading import Recording

VALUES = "Value of each term"
NORMS = "Gradient norm of each term"
CONFLICT = "Conflict over time"
SHARES = "Share of the total"

_BLOCKS = 40
_FEWEST = 8
_PLATEAU = 0.05
_MOST_ROWS = 3_000
_LOOKED_AT = 300
_FAR = 3.0


def sentences(run: Recording) -> list[Remark]:
    """What a reader should know of a run before any figure.

    All numbers are medians over stretches of logged steps, so that one noisy step says nothing.

    Args:
        run: What the run left.

    Returns:
        Sentences; none where nothing was logged.
    """
    if not run.log.steps:
        return []
    found = [*_pull(run), *_suggested(run), *_progress(run), *_quarrels(run), *_rest(run), *_score(run)]
    return [Remark("books", text, figure) for text, figure in found]


def alerts(run: Recording) -> list[Remark]:
    """Alerts with their remedies, each with the figure that shows it; long runs are judged at evenly spread steps."""
    shown = {
        "dead": NORMS,
        "spiking": VALUES,
        "not finite": VALUES,
        "dominating": SHARES,
        "fighting": CONFLICT,
        "drifting weight": "Weighted value of each term, and the total",
    }
    found: dict[tuple[str, str], list[Alert]] = {}
    for each in replay(run, _MOST_ROWS):
        found.setdefault((each.kind, each.term), []).append(each)
    return [Remark("alert", repeated(same), shown.get(kind, "")) for (kind, _), same in found.items()]


def repeated(same: Sequence[Alert]) -> str:
    """Alerts of one kind and one term, in a sentence.

    Args:
        same: In their order; at least one.

    Returns:
        The first, and how often it came again.
    """
    times = f"once more, at step {same[-1].since:,}" if len(same) == 2 else f"{len(same) - 1} times more"
    last = f", last at step {same[-1].since:,}" if len(same) > 2 else ""
    return str(same[0]) + (f" It came {times}{last}." if len(same) > 1 else "")


def _pull(run: Recording) -> Iterator[tuple[str, str]]:
    """The term that pulls hardest, beside the one that is most of the loss."""
    shares = {name: _late(run.term(name, "share")) for name in run.terms}
    norms = {name: _late(run.term(name, "grad_norm")) for name in run.terms}
    known = [name for name in run.terms if shares[name] is not None and norms[name]]
    if len(known) < 2:
        return
    strongest = max(known, key=lambda name: norms[name] or 0.0)
    largest = max((name for name in known if name != strongest), key=lambda name: abs(shares[name] or 0.0))
    times = (norms[strongest] or 0.0) / (norms[largest] or math.inf)
    if times >= 1.5:
        told = f"{number(round(times, 1) if times < 10 else round(times))} times the gradient"
        yield (
            f"{strongest} is {_part(shares[strongest])} of the loss and sends {told} of {largest}, which is "
            f"{_part(shares[largest])} of it.",
            NORMS,
        )
    weakest = min(known, key=lambda name: norms[name] or 0.0)
    all_norms = math.hypot(*(norms[name] or 0.0 for name in known))
    if weakest not in (strongest, largest) and (norms[weakest] or 0.0) < 0.01 * all_norms:
        yield (
            f"{weakest} sends {_part((norms[weakest] or 0.0) / all_norms)} of the gradient: next to nothing.",
            NORMS,
        )


def _suggested(run: Recording) -> Iterator[tuple[str, str]]:
    """The weights that equal gradients would take, where they are far from those that were used."""
    columns = {name: (run.term(name, "weight"), run.term(name, "grad_norm")) for name in run.terms}
    num_rows = len(run.log.steps)
    rows = range(num_rows // 2, num_rows, max(1, num_rows // 2 // _LOOKED_AT))
    steps = [
        {name: (or_nan(weights[row]), or_nan(norms[row])) for name, (weights, norms) in columns.items()} for row in rows
    ]
    try:
        found = suggest(steps).terms
    except ValueError:  # nothing sent anything
        return
    far = {
        name: abs(math.log(each.suggested / each.weight))
        for name, each in found.items()
        if each.weight > 0 and each.suggested > 0
    }
    told = [name for name in sorted(far, key=lambda name: -round(far[name], 3)) if far[name] > math.log(_FAR)][:3]
    if len(found) > 1 and told:
        weights = ", ".join(f"{name} {found[name].suggested:.2g} (was {number(found[name].weight)})" for name in told)
        half = num_rows - num_rows // 2
        yield (
            f"For equal gradients at the outputs the weights would be {weights}, by the second half of the run: "
            f"headwise suggest --last {half} has all.",
            NORMS,
        )


def _progress(run: Recording) -> Iterator[tuple[str, str]]:
    """Which terms fell, and which stopped."""
    courses = {name: course for name in run.terms if (course := _course(run, run.term(name, "value"))) is not None}
    if not courses:
        return
    falls = {name: 1 - course.last / course.first for name, course in courses.items() if course.first > 0}
    if falls:
        most = max(falls, key=lambda name: falls[name])
        course = courses[most]
        change = f"from {number(course.first)} to {number(course.last)} ({_part(falls[most])} less)"
        if falls[most] > 0.02:
            least = min(falls, key=lambda name: falls[name])
            other = courses[least]
            rest = "" if least == most else f"; {least} went from {number(other.first)} to {number(other.last)}"
            yield f"{most} fell{'' if least == most else ' most,'} {change}{rest}.", VALUES
    stopped = sorted(
        (course.stopped, name) for name, course in courses.items() if course.stopped is not None
    )[:4]  # fmt: skip
    if stopped:
        told = ", ".join(f"{name} at step {step:,} ({number(courses[name].last)})" for step, name in stopped)
        yield f"Stopped moving: {told}.", VALUES


@dataclass(frozen=True)
class _Course:
    """How a value went: its first and last level, and the step since which it has not moved; `None` where it moves."""

    first: float
    last: float
    stopped: int | None


def _course(run: Recording, column: Column) -> _Course | None:
    size = max(1, len(column) // _BLOCKS)
    blocks = [(run.log.steps[row], median(column[row : row + size])) for row in range(0, len(column), size)]
    levels = [(step, level) for step, level in blocks if level is not None]
    if len(levels) < _FEWEST:
        return None
    first, last = levels[0][1], levels[-1][1]
    near = _PLATEAU * max(abs(first - last), 0.02 * abs(last))
    begins = len(levels) - 1
    while begins and abs(levels[begins - 1][1] - last) <= near:
        begins -= 1
    moved = abs(first - last) > 0.1 * max(abs(first), abs(last))
    return _Course(first, last, levels[begins][0] if moved and begins < 0.7 * len(levels) else None)


def _quarrels(run: Recording) -> Iterator[tuple[str, str]]:
    """The pair that pulls apart most."""
    against = []
    for (one, other), column in run.pairs().items():
        cosines = finite(column)
        opposed, agreed = (sum(sign * value > 0.1 for value in cosines) for sign in (-1, 1))
        if len(cosines) >= _FEWEST and opposed >= 2 * agreed:  # else it is noise to both sides
            against.append((opposed / len(cosines), one, other, median(cosines)))
    if against and max(against)[0] >= 0.25:
        part, one, other, middle = max(against)
        yield (
            f"{one} and {other} ask for opposite changes of what both read at {_part(part)} of the logged steps "
            f"(median cosine {number(middle)}).",
            CONFLICT,
        )


def _rest(run: Recording) -> Iterator[tuple[str, str]]:
    share = _late(run.log.column("unbooked", "share"))
    if share:
        yield f"{_part(abs(share))} of the loss is booked to no term: it is added outside the criterion.", SHARES


def _score(run: Recording) -> Iterator[tuple[str, str]]:
    judged = headline(run)
    if judged is not None:
        last, step = judged.values[-1]
        (best, at), (first, begun) = max(judged.values), judged.values[0]
        if not judged.higher_is_better:
            more = f", from {number(first)} at step {begun:,}"
        else:
            more = ", its best" if best == last else f", best {number(best)} at step {at:,}"
        yield f"{judged.name} is {number(last)} at step {step:,}{more if len(judged.values) > 1 else ''}.", ""


def _late(column: Column) -> float | None:
    """The median over the second half of the run's logged steps; `None` for what is no longer logged there."""
    return median(column[len(column) // 2 :])


def _part(share: float | None) -> str:
    """A share as words have it: no decimals from 1 % on."""
    if share is None:
        return "an unknown part"
    percent = 100 * share
    return f"{percent:.0f} %" if abs(percent) >= 0.95 or percent == 0 else f"{percent:.2g} %"
