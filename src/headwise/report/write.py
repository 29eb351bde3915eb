"""From a run folder to its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from headwise.report.figures.charts import Curves
from headwise.report.figures.heatmap import HeatMap
from headwise.report.page.blocks import Block, Remarks
from headwise.report.page.markup import slug
from headwise.report.page.page import Page, Section, refuse_other_page
from headwise.report.sections import run_sections as sections
from headwise.report.sections.evaluations import evaluation
from headwise.report.sections.findings import find
from headwise.report.sections.levels import levels
from headwise.report.sections.sentences import alerts, sentences
from headwise.require import require
from headwise.runs.reading import Recorded, Recording, as_recorded

_PICTURE_BYTES = 3_000_000


def write_report(run: Recorded, *, png: bool = True) -> Path:
    """Write RUN/report/index.html, one page that needs no network, and its pictures as PNG files beside it.

    The report reads the tables of the run and computes nothing but medians and moving means for the eye, which it
    says. What a run does not have is named on the page.

    Args:
        run: a run (`hw.Run`), or its folder, with config.json and, as far as the run got, log.jsonl,
            evaluation.jsonl, samples/.
        png: whether to write the PNG files, for slides and papers, too: they take ten times as long as the page.

    Returns:
        The path of the page.

    Raises:
        ImportError: the extra `headwise[report]` is not installed.
        ValueError: no run folder, no readable config.json, a report/index.html that is not ours, or the report cannot
            be written.
    """
    require("headwise report", "report")
    found = as_recorded("write_report", run)
    folder = found.folder / "report"
    refuse_other_page(folder / "index.html")
    page, taken = report_page(found), set[str]()
    for section in page.sections if png else ():
        for block in section.blocks:
            _save(block, folder, taken)
    return page.write(folder / "index.html")


def report_page(run: Recording) -> Page:
    """The page on a run, not yet written.

    Args:
        run: what `read_run` found.

    Returns:
        The page; sections on what the run does not have are left out, and its findings say so.
    """
    pictures, unshown = _pictures(run)
    page = Page(_title(run), _subtitle(run))
    groups = number_sections(run)
    page.add(Section("Findings", [*opening(run, groups), Remarks([*find(run), *unshown])]))
    for group in groups:
        page.add(group)
    if pictures:
        hint = "Not trained on. Hover an outline or a row for its name and numbers."
        page.add(Section("Held-out pictures", pictures, hint))
    return page.add(sections.configuration(run))


def opening(run: Recording, groups: Sequence[Section]) -> list[Block]:
    """What comes before all figures: facts, what the books say in words, and alerts.

    Args:
        run: what the run left.
        groups: the sections that follow, for links to their figures.

    Returns:
        The blocks.
    """
    shown = {title for group in groups for block in group.blocks if (title := getattr(block, "title", ""))}
    said = [each if each.figure in shown else each._replace(figure="") for each in (*alerts(run), *sentences(run))]
    return [sections.tiles(run), *([Remarks(said)] if said else [])]


def number_sections(run: Recording) -> list[Section]:
    """The sections on the numbers of a run, as far as there are numbers.

    Args:
        run: what the run left.

    Returns:
        The sections, none of them empty.
    """
    return [Section(title, blocks, lead) for title, lead, blocks in _groups(run) if blocks]


def _groups(run: Recording) -> list[tuple[str, str, Sequence[Block]]]:
    """Title, lead and blocks of the sections on numbers; those without numbers are empty."""
    measured = evaluation(run)
    if not run.log.steps:
        return [("Evaluation", "", measured)]
    return [
        ("Terms", "One loss per head, and what each did.", [sections.term_table(run)]),
        (
            "Losses",
            "Hover, or focus and press the arrow keys, for numbers; a name hides its curve.",
            sections.losses(run),
        ),
        ("Gradients", "What each term sends back through the network's outputs.", sections.gradients(run)),
        (
            "Levels",
            "What each stack, pyramid level or auxiliary output contributes to the terms that read several of them.",
            levels(run),
        ),
        (
            "Conflict",
            "Whether terms that read the same output ask for the same change of it.",
            sections.conflict(run),
        ),
        ("Evaluation", "", measured),
        ("Samples", "", sections.samples(run)),
        ("Speed and schedule", "", sections.speed(run)),
    ]


def _save(block: Block, folder: Path, taken: set[str]) -> None:
    """Write a figure as a PNG file too, under a name that no other has; other blocks are for the page alone."""
    from headwise.report.figures.plots import plot_curves, plot_heat_map
    from headwise.report.pictures.pictures import SampleFigure
    from headwise.report.pictures.sample_plot import plot_sample

    if isinstance(block, Curves):
        plot_curves(block, _free_path(folder, block.title, taken))
    elif isinstance(block, HeatMap):
        plot_heat_map(block, _free_path(folder, block.title, taken))
    elif isinstance(block, SampleFigure):
        plot_sample(block.sample, _free_path(folder, f"sample {block.sample.name}", taken))


def _free_path(folder: Path, title: str, taken: set[str]) -> Path:
    """A file that no other figure and nobody else has: `Share of the total` becomes `share-of-the-total.png`."""
    from headwise.report.figures.plots import is_free

    name = next(name for name in _numbered(slug(title)) if name not in taken and is_free(folder / f"{name}.png"))
    taken.add(name)
    return folder / f"{name}.png"


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def _pictures(run: Recording) -> tuple[list[Block], list[tuple[str, str]]]:
    """Held-out pictures, as many as the page can hold, and remarks on those not shown."""
    from headwise.report.pictures.pictures import SampleFigure
    from headwise.runs.samples import read_sample

    shown: list[Block] = []
    remarks: list[tuple[str, str]] = []
    size = 0
    for index, path in enumerate(run.samples):
        try:
            block = SampleFigure(read_sample(path))
        except ValueError as error:
            remarks.append(("note", str(error)))
            continue
        size += len(block.html("size"))
        if size > _PICTURE_BYTES and shown:
            left = len(run.samples) - index
            remarks.append(("note", f"{left} more held-out pictures in samples/ are left out to keep the page small."))
            break
        shown.append(block)
    return shown, remarks


def _title(run: Recording) -> str:
    recipe = run.config.get("recipe") or run.config.get("preset") or "run"
    return run.name if recipe == run.name else f"{recipe} · {run.name}"


def _subtitle(run: Recording) -> str:
    preset = run.config.get("preset")
    parts = [f"preset {preset}"] if isinstance(preset, str) and preset else []
    parts += [f"seed {run.config['seed']}"] if "seed" in run.config else []
    parts.append(f"terms: {', '.join(run.terms)}" if run.terms else "no terms named")
    return " · ".join(parts)
