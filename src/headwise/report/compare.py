"""The page on several runs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headwise.report.figures.charts import Curves
from headwise.report.page.blocks import Block, Remarks, Table
from headwise.report.page.page import Page, Section
from headwise.report.terminal import render_table
from headwise.runs.columns import Values
from headwise.runs.comparing import QUANTITIES, Comparison, Departure
from headwise.runs.reading import Recording

_POINTS = 40_000
"""Numbers that all curves of the page have together, about."""


def write_comparison(runs: Sequence[Recording], comparison: Comparison, path: Path) -> Path:
    """Write the page on several runs: one HTML file that needs no network.

    Args:
        runs: As they were compared.
        comparison: What `headwise.runs.comparing.compare` found.
        path: The file.

    Returns:
        `path`.
    """
    return comparison_page(runs, comparison).write(path)


def comparison_page(runs: Sequence[Recording], comparison: Comparison) -> Page:
    """The page of `write_comparison`, not yet written.

    Args:
        runs: As they were compared.
        comparison: What was found.

    Returns:
        The page.
    """
    names = comparison.names
    page = Page(" · ".join(names), f"{len(names)} runs, compared at {comparison.steps:,} logged steps")
    first: list[Block] = [
        Remarks([("note" if comparison.departures else "good", comparison.verdict)]),
        _departures(comparison),
    ]
    page.add(Section("What departs, and when", first))
    page.add(Section("Configurations", [_configurations(comparison)]))
    if comparison.scores:
        rows = [[name, *numbers] for name, numbers in comparison.scores.items()]
        caption = "At each run's last evaluation."
        page.add(Section("Scores", [Table(("measure", *names), rows, title="Scores", caption=caption)]))
    for title, quantity in (("Values", "value"), ("Gradients", "grad_norm"), ("Weights", "weight")):
        curves = _curves(runs, comparison, quantity)
        if curves:
            page.add(Section(title, curves))
    return page


def told(comparison: Comparison) -> str:
    """What differs, for a terminal.

    Args:
        comparison: What was found.

    Returns:
        The verdict and three tables at most.
    """
    header, rows = _departure_rows(comparison)
    parts = [comparison.verdict]
    if rows:
        parts.append(render_table(header, rows, title="First step at which a term departs"))
    if comparison.settings:
        settings = [[key, *values] for key, values in comparison.settings.items()]
        parts.append(render_table(("setting", *comparison.names), settings, title="Settings that differ"))
    if comparison.scores:
        scores = [[key, *values] for key, values in comparison.scores.items()]
        parts.append(render_table(("measure", *comparison.names), scores, title="Last scores"))
    return "\n\n".join(parts)


def _departure_rows(comparison: Comparison) -> tuple[tuple[str, ...], list[list[object]]]:
    order = dict.fromkeys([*(each.term for each in comparison.departures), *comparison.terms])
    rows: list[list[object]] = []
    for term in order:
        found = [comparison.first(term, quantity) for quantity in QUANTITIES]
        if any(found):
            rows.append([term, *(each and each.step for each in found), _numbers(comparison, found)])
    return ("term", *QUANTITIES.values(), "there"), rows


def _numbers(comparison: Comparison, found: Sequence[Departure | None]) -> str:
    """The numbers of the earliest departure of a term."""
    first = min((each for each in found if each is not None), key=lambda each: each.step)
    numbers = " / ".join("missing" if number is None else f"{number:.6g}" for number in first.numbers)
    return f"{QUANTITIES[first.quantity]} {numbers}"


def _departures(comparison: Comparison) -> Table:
    header, rows = _departure_rows(comparison)
    caption = (
        f"The first of the {comparison.steps:,} logged steps at which a term's number is not the same in all runs; a "
        "dash: it never departs. The earliest first: what departs later is as a rule its consequence."
    )
    return Table(header, rows, title="First step at which a term departs", caption=caption)


def _configurations(comparison: Comparison) -> Block:
    if not comparison.settings:
        return Remarks([("good", f"All {comparison.same_settings} settings are the same.")])
    rows = [[key, *values] for key, values in comparison.settings.items()]
    caption = f"{comparison.same_settings} other settings are the same in all runs."
    return Table(("setting", *comparison.names), rows, title="Settings that differ", caption=caption)


def _curves(runs: Sequence[Recording], comparison: Comparison, quantity: str) -> list[Block]:
    """A chart per term, what departs first in front, a curve per run; for weights only where they differ or move."""
    steps = sorted({step for run in runs for step in run.log.steps})
    points = max(400, _POINTS // max(1, 2 * len(comparison.terms)))
    blocks: list[Block] = []
    first_ones = dict.fromkeys(each.term for each in comparison.departures)
    for term in dict.fromkeys([*first_ones, *comparison.terms]):
        series = {
            name: _spread(run, steps, run.term(term, quantity))
            for name, run in zip(comparison.names, runs, strict=True)
        }
        held = {value for column in series.values() for value in column if value is not None}
        if held and (quantity != "weight" or len(held) > 1):
            first = comparison.first(term, quantity)
            caption = f"Departs at step {first.step:,}." if first else "The same in all runs."
            blocks.append(
                Curves(f"{term}: {QUANTITIES[quantity]}", steps, series, unit=QUANTITIES[quantity],
                       log=quantity != "weight", smooth=quantity != "weight", points=points, caption=caption)
            )  # fmt: skip
    return blocks


def _spread(run: Recording, steps: Sequence[int], column: Values) -> list[float | None]:
    """A run's column over the steps of all runs."""
    known = dict(zip(run.log.steps, column, strict=True))
    return [known.get(step) for step in steps]
