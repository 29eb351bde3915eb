"""What each stack, pyramid level or auxiliary output contributes to the terms that read several of them."""

from __future__ import annotations

from headwise.report.figures.charts import Curves
from headwise.report.figures.heatmap import HeatMap
from headwise.report.page.blocks import Block
from headwise.runs.columns import median
from headwise.runs.reading import Recording

_POINTS = 3_000  # per chart: a page may hold many of them


def levels(run: Recording) -> list[Block]:
    """Gradient norms and shares of terms by level, as matrices and over time.

    Args:
        run: what the run left.

    Returns:
        The blocks; none where no term has more than one level.
    """
    names = {term: run.log.names("terms", term, "levels") for term in run.terms}
    names = {term: found for term, found in names.items() if len(found) > 1}
    if not names:
        return []
    matrices: list[Block] = [
        _matrix(run, names, "grad_norm", "Gradient norm of each term at each level", "gradient norm",
                "The median over all logged steps of the norm of d(weight x value) / d(what the term reads at the "
                "level), at the network's outputs: where the term pulls."),
        _matrix(run, names, "share", "Share of the total by term and level", "share of the total",
                "The median over all logged steps of the level's part of the total, level weights included. The shares "
                "of a term's levels add up to the term's."),
    ]  # fmt: skip
    return [*matrices, *(block for term in names for block in _over_time(run, term, names[term]))]


def _matrix(run: Recording, names: dict[str, list[str]], quantity: str, title: str, unit: str, caption: str) -> HeatMap:
    columns = list(dict.fromkeys(level for found in names.values() for level in found))
    cells = [[median(run.log.column("terms", term, "levels", level, quantity)) for level in columns] for term in names]
    return HeatMap(title, list(names), columns, cells, unit=unit, log=quantity == "grad_norm",
                   caption=f"{caption} A dash: the term does not read that level.",
                   absent="does not read it")  # fmt: skip


def _over_time(run: Recording, term: str, found: list[str]) -> list[Block]:
    def columns(quantity: str) -> dict[str, list[float | None]]:
        return {level: run.log.column("terms", term, "levels", level, quantity) for level in found}

    alone = len(run.terms) == 1
    return [
        Curves(f"{term}: gradient norm by level", run.log.steps, columns("grad_norm"), log=True, unit="gradient norm",
               points=_POINTS),
        Curves(f"{term}: share of the total by level", run.log.steps, columns("share"), stacked=alone,
               unit="share", points=_POINTS),
    ]  # fmt: skip
