"""Runs side by side: the first step at which each term departs, their configurations, their scores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwise.runs.columns import finite, last
from headwise.runs.reading import Recorded, Recording, as_recorded, distinct_names
from headwise.tabular import Tabular

QUANTITIES = {"weight": "weight", "count": "count", "value": "value", "grad_norm": "gradient norm"}
"""By what runs are compared, causes before effects: as logged, and as told."""

_NO_CAUSE = frozenset({"run", "terms", "scheduled", "card"})


@dataclass(frozen=True)
class Departure:
    """The first logged step at which a term is not the same in all runs.

    Args:
        term: Whose.
        quantity: A key of `QUANTITIES`.
        step: Of those that all runs logged.
        numbers: One per run; None where a run has none.
        gap: The largest difference there, over the largest size; infinite where one is missing or not finite.
    """

    term: str
    quantity: str
    step: int
    numbers: tuple[float | None, ...]
    gap: float


@dataclass(frozen=True)
class Comparison(Tabular):
    """What differs between runs.

    Args:
        names: Of the runs, each unlike the others.
        steps: How many logged steps all runs have in common.
        terms: Of all runs.
        departures: Sorted: the earliest first, causes before effects, then the largest.
        settings: What the configurations say that is not the same in all: key -> a text per run.
        same_settings: How many settings are the same.
        scores: Per measure and number its last finite one in each run.
    """

    names: tuple[str, ...]
    steps: int
    terms: tuple[str, ...]
    departures: tuple[Departure, ...]
    settings: Mapping[str, tuple[str, ...]]
    same_settings: int
    scores: Mapping[str, tuple[float | None, ...]]

    def table_rows(self) -> list[dict[str, Any]]:
        """A row a departure, the earliest first, with the number of each run."""
        return [
            {
                "term": each.term,
                "by": QUANTITIES[each.quantity],
                "step": each.step,
                **dict(zip(self.names, each.numbers, strict=True)),
                "gap": each.gap,
            }
            for each in self.departures
        ]

    def table_title(self) -> str:
        """The verdict."""
        return self.verdict

    def first(self, term: str, quantity: str) -> Departure | None:
        """Where a term departs by one quantity; None where it never does."""
        found = (each for each in self.departures if (each.term, each.quantity) == (term, quantity))
        return next(found, None)

    @property
    def verdict(self) -> str:
        """What departs first, in a sentence or two."""
        if not self.steps:
            return "The runs have no logged step in common, so their terms cannot be compared."
        if not self.departures:
            steps = "one logged step" if self.steps == 1 else f"{self.steps:,} logged steps"
            return f"No term departs in the {steps} that the runs have in common."
        first = self.departures[0]
        numbers = ", ".join(
            f"{'missing' if number is None else format(number, '.6g')} in {name}"
            for name, number in zip(self.names, first.numbers, strict=True)
        )
        told = f"{first.term} departs first, by its {QUANTITIES[first.quantity]} at step {first.step:,}: {numbers}."
        early = {
            each.term
            for each in self.departures
            if each.step == first.step and each.quantity == "value" and None not in each.numbers
        }
        if len(early) > 1 and len(early) == len(self.terms):
            return (
                f"All {len(early)} terms differ at the first step at which any does ({first.step:,}): another seed, "
                f"other data or another network. The largest difference: {told}"
            )
        rest = len({each.term for each in self.departures}) - 1
        follow = "1 other term follows." if rest == 1 else f"{rest or 'No'} other terms follow."
        return f"{told} {follow}"


def compare(runs: Sequence[Recorded], tolerance: float = 1e-4) -> Comparison:
    """Compares runs term by term at the steps that all of them logged.

    Two numbers differ where they are further apart than `tolerance` times the larger one's size. Runs of one seed on
    one machine agree to the last digit until something differs; 1e-4 leaves room for another machine's rounding.

    Args:
        runs: At least two: runs, what `read_run` found in their folders, or the folders.
        tolerance: Above 0.

    Returns:
        What differs.

    Raises:
        ValueError: One is no run, there are fewer than two, or the tolerance is not above 0.
    """
    if isinstance(runs, str) or not isinstance(runs, Sequence):
        raise ValueError(f"compare: takes a list of two or more runs, found {type(runs).__name__}.")
    recorded = [as_recorded("compare", run) for run in runs]
    if len(recorded) < 2:
        raise ValueError(f"compare: {len(recorded)} run given. Give two or more.")
    if not tolerance > 0:
        raise ValueError(f"compare: the tolerance is above 0, found {tolerance}.")
    rows = _common_rows(recorded)
    terms = tuple(dict.fromkeys(name for run in recorded for name in run.terms))
    found = [
        departure
        for name in terms
        for quantity in QUANTITIES
        if (departure := _departure(recorded, rows, name, quantity, tolerance)) is not None
    ]
    departures = sorted(found, key=lambda each: _rank(found, each))
    settings = _settings(recorded)
    differing = {key: told for key, told in settings.items() if len(set(told)) > 1}
    return Comparison(
        distinct_names([run.folder for run in recorded]),
        len(rows),
        terms,
        tuple(departures),
        differing,
        len(settings) - len(differing),
        _scores(recorded),
    )


def _rank(found: Sequence[Departure], departure: Departure) -> tuple[int, float, int, int]:
    """The term's first step, its largest gap there (its quantities stay together), the own step, causes first."""
    own = [each for each in found if each.term == departure.term]
    first = min(each.step for each in own)
    gap = max(each.gap for each in own if each.step == first)
    return first, -gap, departure.step, list(QUANTITIES).index(departure.quantity)


def _common_rows(runs: Sequence[Recording]) -> list[tuple[int, ...]]:
    """Per step that all runs logged its row in each of them."""
    places = [{step: row for row, step in enumerate(run.log.steps)} for run in runs]
    steps = sorted(set.intersection(*(set(each) for each in places)))
    return [tuple(each[step] for each in places) for step in steps]


def _departure(
    runs: Sequence[Recording], rows: list[tuple[int, ...]], name: str, quantity: str, tolerance: float
) -> Departure | None:
    columns = [run.term(name, quantity) for run in runs]
    if quantity == "count" and any(last(column) is None for column in columns):
        return None  # a run of code that declares no counts
    for places in rows:
        numbers = tuple(column[row] for column, row in zip(columns, places, strict=True))
        gap = _gap(numbers)
        if gap > tolerance:
            return Departure(name, quantity, runs[0].log.steps[places[0]], numbers, gap)
    return None


def _gap(numbers: tuple[float | None, ...]) -> float:
    there = [number for number in numbers if number is not None]
    if len(there) < len(numbers):
        return math.inf if there else 0.0
    if not all(map(math.isfinite, there)):
        return 0.0 if len(set(map(str, there))) == 1 else math.inf
    size = max(map(abs, there))
    return (max(there) - min(there)) / size if size else 0.0


def _settings(runs: Sequence[Recording]) -> dict[str, tuple[str, ...]]:
    flat = [dict(_flat({key: v for key, v in run.config.items() if not _is_name(run, key)}, "")) for run in runs]
    keys = dict.fromkeys(key for each in flat for key in each)
    return {key: tuple(each.get(key, "-") for each in flat) for key in keys}


def _is_name(run: Recording, key: str) -> bool:
    """Whether an entry of the configuration tells runs apart by design; a loop of one's own is named by its folder."""
    return key in _NO_CAUSE or (key == "recipe" and run.config.get("loop") is not None)


def _flat(node: Mapping[str, Any], prefix: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, dict) and depth < _DEEPEST:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)


_DEEPEST = 8


def _scores(runs: Sequence[Recording]) -> dict[str, tuple[float | None, ...]]:
    logs = [run.evaluation for run in runs]
    paths = dict.fromkeys(path for log in logs for path in log.columns if len(path) == 2)
    return {" ".join(path): tuple(last(finite(log.column(*path))) for log in logs) for path in paths}
