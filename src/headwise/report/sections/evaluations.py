"""What a run measured on held-out data: curves of any measure, tables of measures with a row per class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from headwise.report.figures.charts import Curves
from headwise.report.page.blocks import Block, Table
from headwise.report.page.markup import number
from headwise.runs.columns import finite, last
from headwise.runs.log_reading import Column, Log
from headwise.runs.reading import Recording

_MOST_CURVES = 12

_HEADLINES = (
    ("iou50", "f", "F at IoU 0.5"),
    ("coco", "ap50", "AP50"),
    ("instances", "ap", "instance AP at IoU 0.5"),
)
_TITLES = {
    "iou50": "IoU at least 0.5",
    "deteval": "DetEval",
    "deteval_published": "DetEval as published",
    "instances": "objects matched at IoU 0.5",
    "touching": "pairs of objects that touch",
    "per_class": "per class",
}
_CAPTIONS = {
    "iou50": "What was found counts when its intersection over union with an annotated outline is 0.5 or more.",
    "deteval": "The field's older measure: area precision and recall with one-to-many and many-to-one matches.",
    "deteval_published": "DetEval with the errors of the authors' script, to compare with published numbers.",
    "coco ap": "COCO's average precision: ap is the mean over classes and the IoU thresholds 0.50 to 0.95, ap50 and "
    "ap75 are at one threshold, the others are over small (below 32 x 32 pixels), medium and large (above 96 x 96) "
    "objects alone.",
    "coco ar": "COCO's average recall, with at most 1, 10 or 100 boxes a picture and class.",
    "instances": "ap: matched objects over all that were matched, only found or only annotated.",
    "touching": "Of the annotated objects that touch: the share of pairs that were found as two, and as one.",
    "pixels": "Over the pixels of all objects together.",
}
_OURS = frozenset((*_TITLES, "coco", "pixels"))
"""Measures of the recipes, whose counts are told and not drawn."""
_PARTS = {"coco": {"average precision": "ap", "average recall": "ar"}}


@dataclass(frozen=True)
class Headline:
    """The measure that a run is judged by at first sight.

    Attributes:
        name: what it is.
        higher_is_better: whether it is known to be; of a measure of a loop's own nobody has said.
        values: a finite value and its step per evaluation, in their order.
    """

    name: str
    higher_is_better: bool
    values: tuple[tuple[float, int], ...]


def headline(run: Recording) -> Headline | None:
    """F of text, AP50 of boxes, AP of instances, or else the first measure there is.

    Args:
        run: what the run left.

    Returns:
        The measure; `None` where nothing was evaluated.
    """
    log = run.evaluation
    known = [(measure, key, name) for measure, key, name in _HEADLINES if finite(log.column(measure, key))]
    others = [(path[0], path[1], f"{path[1]}, {path[0]}") for path in log.columns if len(path) == 2]
    for measure, key, name in (*known, *others):
        column = log.column(measure, key)
        values = [(v, step) for v, step in zip(column, log.steps, strict=True) if v is not None and finite([v])]
        if values:
            return Headline(name, (measure, key, name) in known, tuple(values))
    return None


def evaluation(run: Recording) -> list[Block]:
    """Curves and tables of all measures.

    Args:
        run: what the run left.

    Returns:
        The blocks; none where nothing was evaluated.
    """
    blocks: list[Block] = []
    for measure in run.evaluation.names():
        blocks += [*_curves(run.evaluation, measure), *_rows(run.evaluation, measure)]
    return blocks


def _title(measure: str) -> str:
    return f"Held out, {_TITLES.get(measure, measure.replace('_', ' '))}"


def _curves(log: Log, measure: str) -> Iterator[Curves]:
    columns = {key: log.columns[measure, key] for key in log.names(measure) if (measure, key) in log.columns}
    for part, start in _PARTS.get(measure, {"": ""}).items():
        chosen = {key: column for key, column in columns.items() if key.startswith(start)}
        shares = {key: column for key, column in chosen.items() if _is_share(column)}
        others = {key: column for key, column in chosen.items() if key not in shares}
        title = f"Held out, {measure.upper()} {part}" if part else _title(measure)
        if shares:
            counts = others if measure in _OURS else {}
            told = [f"{key.replace('_', ' ')}: {_told(column)}." for key, column in counts.items()]
            caption = " ".join(filter(None, [_CAPTIONS.get(f"{measure} {start}".strip(), ""), *told]))
            yield Curves(title, log.steps, shares, bounds=(0.0, 1.0), unit="score", smooth=False, caption=caption)
        for key, column in others.items() if measure not in _OURS else ():
            yield Curves(f"{title}: {key}", log.steps, {key: column}, unit="score", smooth=False)


def _is_share(column: Column) -> bool:
    values = finite(column)
    return bool(values) and all(0 <= value <= 1.0001 for value in values)


def _told(column: Column) -> str:
    values = finite(column)
    return f"{number(values[-1])} at the last evaluation" if values else "nothing to measure it on"


def _rows(log: Log, measure: str) -> Iterator[Block]:
    """A measure with a row per class: a table of the last evaluation, and the first of its numbers over time."""
    rows = [name for name in log.names(measure) if log.names(measure, name)]
    keys = list(dict.fromkeys(key for name in rows for key in log.names(measure, name)))
    if not rows:
        return
    cells = [[name, *(_nothing_for_nan(last(log.column(measure, name, key))) for key in keys)] for name in rows]
    if len(rows) <= _MOST_CURVES:
        columns = {name: log.column(measure, name, keys[0]) for name in rows}
        series: Mapping[str, Column] = {name: column for name, column in columns.items() if finite(column)}
        title = f"Held out, {keys[0].replace('_', ' ')} {_TITLES.get(measure, measure.replace('_', ' '))}"
        bounds = (0.0, 1.0) if all(map(_is_share, series.values())) else None
        yield Curves(title, log.steps, series, bounds=bounds, unit="score", smooth=False, wide=True)
    caption = f"At the last evaluation, step {log.steps[-1]:,}. A dash: nothing to measure it on."
    yield Table(("class", *keys), cells, title=_title(measure), caption=caption)


def _nothing_for_nan(value: float | None) -> float | None:
    return value if value is not None and finite([value]) else None
