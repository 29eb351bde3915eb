"""The same pictures as PNG files, for slides and papers."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headwise.files import write_atomically
from headwise.report.figures.charts import Curves, stroke
from headwise.report.figures.heatmap import HeatMap
from headwise.report.page.markup import NOTHING, shortened, visible
from headwise.runs.columns import or_nan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0067b0", "#c94f08", "#00875f", "#a0418f", "#a06a00", "#2f8fc4", "#c2325c", "#5d6470")
_STYLES: Sequence[object] = ("-", "--", ":", "-.", (0, (5, 2)), (0, (10, 2, 2, 2)), (0, (1, 2)), (0, (12, 4)))
_MARKERS = "os^DPv_|"
_HATCHES = ("", "//", "\\\\", "||", "--", "xx", "++", "..")


def plot_curves(curves: Curves, path: Path) -> Path:
    """Draw curves, or shares stacked to areas, over training steps.

    Args:
        curves: what to draw.
        path: the PNG file.

    Returns:
        `path`.
    """
    figure, axes = _axes(7.2, max(4.2, 0.8 + 0.23 * len(curves.series)))
    if curves.stacked:
        _draw_areas(curves, axes)
    else:
        _draw_lines(curves, axes)
    axes.set_title(literal(curves.title), loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel("step")
    axes.set_ylabel(curves.unit)
    if curves.bounds is not None:
        axes.set_ylim(*curves.bounds)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=3)
    return save(figure, path)


def _draw_lines(curves: Curves, axes: Axes) -> None:
    rows = curves.rows
    steps = [curves.steps[row] for row in rows]
    for index, (name, values) in enumerate(curves.series.items()):
        color = COLORS[index % 8]
        drawn = [or_nan(values[row]) for row in rows]
        if curves.half_width:
            axes.plot(steps, drawn, color=color, alpha=0.22, linewidth=0.8)
            drawn = [or_nan(mean) for mean in curves.means[index]]
        axes.plot(
            steps, drawn, label=literal(name), color=color, linestyle=_STYLES[stroke(index)], linewidth=1.8,
            marker=_MARKERS[stroke(index)], markevery=max(1, len(rows) // 7), markersize=5,
        )  # fmt: skip
    if curves.on_log and any(v > 0 for values in curves.series.values() for v in values if v is not None):
        axes.set_yscale("log")


def _draw_areas(curves: Curves, axes: Axes) -> None:
    rows = curves.rows
    means = curves.means or [[values[row] for row in rows] for values in curves.series.values()]
    steps, alone = [curves.steps[row] for row in rows], len(rows) == 1
    places = [steps[0] - 0.2, steps[0] + 0.2] if alone else steps  # a lone step has a bar
    levels = {1: [0.0] * len(rows), -1: [0.0] * len(rows)}
    for index, (name, column) in enumerate(zip(curves.series, means, strict=True)):
        heights = [v if math.isfinite(v := or_nan(mean)) else 0.0 for mean in column]
        label = literal(name)
        for sign, bases in levels.items():  # one that changes sides ends on one and begins on the other
            ends = [base + (v if v * sign > 0 else 0.0) for base, v in zip(bases, heights, strict=True)]
            if ends != bases or (label and sign < 0):
                axes.fill_between(
                    places, bases * (1 + alone), ends * (1 + alone), label=label, color=COLORS[index % 8], alpha=0.75,
                    hatch=_HATCHES[stroke(index)], edgecolor="white",
                )  # fmt: skip
                label = ""
            levels[sign] = ends
    axes.set_ylim(min([0.0, *levels[-1]]), 1)


def plot_heat_map(heat: HeatMap, path: Path) -> Path:
    """Draw a matrix with its numbers in the cells.

    Args:
        heat: what to draw.
        path: the PNG file.

    Returns:
        `path`.
    """
    labels = _PER_LETTER * max((len(literal(name)) for name in heat.rows), default=0)
    width = max(labels + 1.8 + 0.95 * len(heat.columns), 1.2 * _PER_LETTER * len(literal(heat.title)))
    figure, axes = _axes(width, 1.5 + 0.55 * len(heat.rows))
    from matplotlib.colors import LogNorm, Normalize

    cells = [
        [math.nan if heat.is_self(row, column) else or_nan(v) for column, v in zip(heat.columns, line, strict=True)]
        for row, line in zip(heat.rows, heat.values, strict=True)
    ]
    usable = [v for line in cells for v in line if math.isfinite(v) and (v > 0 or not heat.log)]
    low, high = (min(usable), max(usable)) if usable else (0.1, 1.0)
    norm = Normalize(-1, 1) if heat.diverging else (LogNorm if heat.log else Normalize)(low, high)
    shown = [[v if v > 0 or not heat.log else math.nan for v in line] for line in cells]
    image = axes.imshow(shown, cmap="RdBu" if heat.diverging else "cividis", norm=norm, aspect="auto")
    axes.set_xticks(range(len(heat.columns)), [literal(n) for n in heat.columns], rotation=30, ha="right")
    axes.set_yticks(range(len(heat.rows)), [literal(n) for n in heat.rows])
    for y, row in enumerate(heat.rows):
        for x, column in enumerate(heat.columns):
            if not heat.is_self(row, column):
                _write_cell(axes, x, y, heat.values[y][x], signed=heat.diverging)
    figure.suptitle(literal(heat.title), x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.colorbar(image, ax=axes, label=heat.unit)
    return save(figure, path)


_PER_LETTER = 0.09
"""Inches that a letter of a label takes."""


def _write_cell(axes: Axes, x: int, y: int, value: float | None, *, signed: bool) -> None:
    text = NOTHING if value is None else f"{value:+.2f}" if signed else f"{value:.3g}"
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
    axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=box)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = blank(width, height)
    return figure, figure.add_subplot()


def blank(width: float, height: float) -> Figure:
    """A figure of its own, outside pyplot's global list, drawn by Agg whatever the machine's display.

    Args:
        width: inches.
        height: inches.

    Returns:
        The figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all; return `path`."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": _SOFTWARE})
    return write_atomically(path, content.getvalue())


_SOFTWARE = "Headwise"
_PNG_HEADER = 512
"""Bytes of a PNG in which the software that wrote it is named."""


def is_free(path: Path) -> bool:
    """Whether a figure may be written there: nothing is, or an earlier figure of ours.

    Args:
        path: of a PNG file.

    Returns:
        Whether it may.
    """
    if not path.exists() and not path.is_symlink():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f"Software\0{_SOFTWARE}".encode() in file.read(_PNG_HEADER)


def literal(name: str) -> str:
    """A name for matplotlib: visible, short, no mathematics between dollars; a leading underscore does not hide it."""
    shown = shortened(visible(name), _LONGEST)
    return "\u200b" * shown.startswith("_") + shown.replace("$", r"\$")


_LONGEST = 80
"""Characters of a name in a picture."""
