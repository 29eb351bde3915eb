"""Judges the logged steps of a run, while it trains or afterwards."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from headwise.files import parse_json
from headwise.runs.alerts import rules
from headwise.runs.alerts.alert import Alert, Alerts
from headwise.runs.entries import pair_key, split_pair
from headwise.runs.reading import Recorded, Recording, as_recorded

ALERTS = "alerts.jsonl"
"""What a run's alerts are written to as they come."""

_MOST_OF_A_KIND = 5


class Watch:
    """Takes the logged steps of a run in their order, and tells what goes wrong.

    Args:
        scheduled: Names of terms whose weight is meant to move.

    Attributes:
        found: All alerts so far.
    """

    def __init__(self, scheduled: Collection[str] = ()) -> None:
        self.found: list[Alert] = []
        self._scheduled = frozenset(scheduled)
        self._terms: defaultdict[str, _TermHistory] = defaultdict(_TermHistory)
        self._pairs: defaultdict[str, rules.Fighting] = defaultdict(rules.Fighting)
        self._total, self._unbooked = rules.Total(), rules.Stray()
        self._counts: defaultdict[tuple[str, str], int] = defaultdict(int)

    def see(self, entry: Mapping[str, Any]) -> list[Alert]:
        """Judge a step.

        Args:
            entry: As `headwise.runs.entries.step_entry` makes it, or read from a log.

        Returns:
            What is new, the gravest first. One kind of alert is told of one term five times at most.
        """
        new = []
        for alert in self._judge(entry):
            self._counts[alert.kind, alert.term] += 1
            if self._counts[alert.kind, alert.term] <= _MOST_OF_A_KIND:
                new.append(alert)
        self.found += new
        return new

    def _judge(self, entry: Mapping[str, Any]) -> Iterator[Alert]:
        step, known = int(entry["step"]), entry.get("total") is not None
        total = float(entry["total"]) if known else math.nan
        # A value or a total that nobody knows is left out of an entry, and is not judged.
        terms = {name: term for name, term in entry["terms"].items() if name != "unbooked" and "value" in term}
        squares = [_square(term) for term in terms.values()]
        usual = self._total.usual
        about_terms: list[Alert] = []
        judged = len(terms) > 1 and all("grad_norm" in other for other in terms.values())
        for (name, term), rest in zip(terms.items(), _sums_of_others(squares), strict=True):
            others = math.sqrt(rest) if judged else math.inf
            about_terms += self._terms[name].see(
                step, name, term, total, usual, others, self._total.still, name in self._scheduled
            )
        yield from about_terms
        if known:
            blamed = any(alert.kind in ("not finite", "spiking") for alert in about_terms)
            yield from self._about_total(step, total, terms, blamed)
        yield from self._unbooked.see(step, entry, math.sqrt(math.fsum(squares)))
        for key, cosine in entry.get("cosine", {}).items():
            pair = split_pair(key, entry["terms"])
            if pair is not None:
                yield from self._pairs[key].see(step, pair, cosine)

    def _about_total(
        self, step: int, total: float, terms: Mapping[str, Mapping[str, Any]], blamed: bool
    ) -> Iterator[Alert]:
        weights = tuple(float(term["weight"]) for term in terms.values())
        for alert in self._total.see(step, total, weights, blamed):
            yield replace(alert, evidence=f"{alert.evidence}{_most_of(terms)}") if alert.kind == "spiking" else alert


class _TermHistory:
    """All rules of one term."""

    def __init__(self) -> None:
        self._finite, self._dead, self._spiking = rules.NotFinite(), rules.Dead(), rules.Spiking()
        self._dominating, self._drifting = rules.Dominating(), rules.Drifting()

    def see(
        self,
        step: int,
        name: str,
        term: Mapping[str, Any],
        total: float,
        usual: float,
        others: float,
        all_still: bool,
        scheduled: bool,
    ) -> Iterator[Alert]:
        yield from self._finite.see(step, name, term)
        yield from self._dead.see(step, name, term, all_still)
        yield from self._spiking.see(step, name, term, total, usual)
        yield from self._dominating.see(step, name, term, others)
        if not scheduled:
            yield from self._drifting.see(step, name, float(term["weight"]))


def _most_of(terms: Mapping[str, Mapping[str, Any]]) -> str:
    """Which term is most of the total, in a sentence; nothing where none is."""
    parts = {name: abs(float(term["weight"]) * float(term["value"])) for name, term in terms.items()}
    size = math.fsum(parts.values())
    most = max(parts, key=lambda name: parts[name], default="")
    return f" {most} is {parts[most] / size:.0%} of it." if size > 0 and parts[most] > 0.5 * size else ""


def _square(term: Mapping[str, Any]) -> float:
    norm = rules.norm_of(term)
    return norm * norm if math.isfinite(norm) else 0.0


def _sums_of_others(numbers: Sequence[float]) -> list[float]:
    """Per number the sum of all others, which a difference of sums loses beside a far larger one."""
    before = [0.0, *accumulate(numbers)][: len(numbers)]
    after = [0.0, *accumulate(reversed(numbers))][: len(numbers)]
    return [left + right for left, right in zip(before, reversed(after), strict=True)]


def replay(run: Recorded, most_rows: int | None = None) -> Alerts:
    """Judge a run that was recorded, finished or not.

    Args:
        run: The run, what `read_run` found in its folder, or the folder.
        most_rows: Look at about so many logged steps, evenly spread; None: at all.

    Returns:
        The alerts, in the order in which they would have come.

    Raises:
        ValueError: It is no run.
    """
    run = as_recorded("replay", run)
    scheduled = run.config.get("scheduled")
    watch = Watch([name for name in scheduled if isinstance(name, str)] if isinstance(scheduled, list) else ())
    stride = 1 if most_rows is None else max(1, math.ceil(len(run.log.steps) / most_rows))
    columns = {
        name: {what: run.term(name, what) for what in ("value", "weight", "share", "grad_norm", "finite", "trained")}
        for name in run.terms
    }
    pairs = {pair_key(*pair): column for pair, column in run.pairs().items()}
    rest = {what: run.log.column("unbooked", what) for what in ("value", "share", "grad_norm")}
    totals = run.log.column("total")
    for row in range(0, len(run.log.steps), stride):
        watch.see({
            "step": run.log.steps[row],
            "total": totals[row],
            "unbooked": {what: column[row] for what, column in rest.items() if column[row] is not None},
            "terms": {name: _row(held, row) for name, held in columns.items() if held["value"][row] is not None},
            "cosine": {pair: column[row] for pair, column in pairs.items()},
        })  # fmt: skip
    samples = _samples_told(run)
    return Alerts(replace(each, samples=samples.get((each.kind, each.term, each.step), ())) for each in watch.found)


def _samples_told(run: Recording) -> dict[tuple[str, str, int], tuple[str, ...]]:
    """The samples that alerts named while the run trained, which its log does not hold."""
    found = {}
    try:
        lines = (run.folder / ALERTS).read_bytes().splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            told = parse_json(line)
            found[told["kind"], told["term"], told["step"]] = tuple(map(str, told.get("samples", ())))
        except (ValueError, KeyError, TypeError, AttributeError):  # as a killed run leaves it
            continue
    return found


def _row(columns: Mapping[str, list[float | None]], row: int) -> dict[str, float]:
    """A term's numbers at a row; what was not logged is what says nothing."""
    found = {what: column[row] for what, column in columns.items()}
    usual = {"weight": 1.0, "share": 0.0, "finite": 1.0, "trained": 1.0}
    return {
        what: usual[what] if value is None else value
        for what, value in found.items()
        if what in usual or value is not None
    }
