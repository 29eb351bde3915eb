"""A held-out picture as a PNG file, for slides and papers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from headwise.report.figures.plots import COLORS, blank, literal, save
from headwise.report.pictures.instances import painted
from headwise.report.pictures.pictures import is_finite
from headwise.report.pictures.strips import drawn_rows
from headwise.runs.samples import PointPairs, SampleMap, SavedSample, Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec
    from matplotlib.image import AxesImage

    from headwise.runs.samples.parts import Array

_MAPS_A_ROW = 5
_ROLES = (("annotated", "#ffd54a", "--"), ("found", "#57d1ff", "-"))


def plot_sample(sample: SavedSample, path: Path) -> Path:
    """Draw a held-out picture: the photograph with its outlines, label maps, maps over their targets, pairs of points.

    Args:
        sample: what to draw.
        path: the PNG file.

    Returns:
        `path`.
    """
    num_panels = 1 if sample.instances is None else 3
    columns = min(len(sample.maps), _MAPS_A_ROW)
    banks = math.ceil(len(sample.maps) / _MAPS_A_ROW)
    most = max((len(drawn_rows(pairs)) for pairs in sample.pairs), default=0)
    low = 0.9 + 0.2 * most if sample.pairs else 0.0
    high = max(5.2, 4.6 * banks)
    figure = blank(5.0 * num_panels + 2.5 * columns + 0.4, high + low)
    outer = figure.add_gridspec(
        1 + bool(low), 1 + bool(columns), width_ratios=[5.0 * num_panels, *[2.5 * columns][:columns]],
        height_ratios=[high, *[low][: bool(low)]],
    )  # fmt: skip
    _draw_panels(figure, outer[0, 0].subgridspec(1, num_panels), sample)
    if columns:
        _draw_maps(figure, outer[0, 1].subgridspec(2 * banks, columns), sample)
    if low:
        bottom = outer[1, :].subgridspec(1, len(sample.pairs))
        for index, pairs in enumerate(sample.pairs):
            _draw_pairs(figure.add_subplot(bottom[0, index]), pairs)
    return save(figure, path)


def _draw_panels(figure: Figure, grid: GridSpecFromSubplotSpec, sample: SavedSample) -> None:
    photograph = figure.add_subplot(grid[0, 0])
    height, width = sample.image.shape[:2]
    photograph.imshow(sample.image, extent=(0, width, height, 0))
    for role, color, style in _ROLES:
        for shape in filter(is_finite, getattr(sample, role)):
            _draw_shape(photograph, shape, color, style, above=role == "found")
    photograph.set(xlim=(0, width), ylim=(height, 0))
    outlined = ": annotated (dashed), found (solid)" if sample.annotated or sample.found else ""
    photograph.set_title(f"{literal(sample.title)}{outlined}", loc="left", fontsize=11)
    photograph.axis("off")
    if sample.instances is not None:
        for column, role in enumerate(("found", "annotated"), start=1):
            axes = figure.add_subplot(grid[0, column])
            axes.imshow(painted(sample.image, getattr(sample.instances, role)))
            axes.set_title(f"objects {role}", loc="left", fontsize=11)
            axes.axis("off")


def _draw_shape(axes: Axes, shape: Shape, color: str, style: str, *, above: bool) -> None:
    from matplotlib.patheffects import withStroke

    ring = [*shape.points.tolist(), shape.points[0].tolist()]
    line = ":" if shape.ignored else style
    for thickness, shade in ((3.4, "black"), (1.7, color)):
        axes.plot(*zip(*ring, strict=True), color=shade, linestyle=line, linewidth=thickness)
    if shape.label:
        score = "" if math.isnan(shape.score) else f" {shape.score:.2f}"
        y = shape.points[:, 1].min() if above else shape.points[:, 1].max()
        around = [withStroke(linewidth=2.5, foreground="black")]
        axes.text(shape.points[:, 0].min(), y, literal(shape.label) + score, color=color, fontsize=9, clip_on=True,
                  va="bottom" if above else "top", path_effects=around)  # fmt: skip


def _draw_maps(figure: Figure, grid: GridSpecFromSubplotSpec, sample: SavedSample) -> None:
    for index, pair in enumerate(sample.maps):
        bank, column = divmod(index, _MAPS_A_ROW)
        shown = [(literal(pair.title), pair.values), *([] if pair.target is None else [("target", pair.target)])]
        axes = [figure.add_subplot(grid[2 * bank + row, column]) for row in range(len(shown))]
        images = [_draw_map(each, *map_, pair, sample) for each, map_ in zip(axes, shown, strict=True)]
        figure.colorbar(images[0], ax=axes, shrink=0.75 / len(axes))  # one for both: their limits are the same


def _draw_map(axes: Axes, title: str, values: Array, pair: SampleMap, sample: SavedSample) -> AxesImage:
    height, width = sample.image.shape[:2]
    extent = (0.0, width, height, 0.0)  # maps of any grid lie over the same picture
    if sample.outline is not None and sample.outline.any() and not sample.outline.all():
        axes.contour(sample.outline.astype(float), [0.5], colors="black", linewidths=0.7, extent=extent, origin="upper")
    axes.set_title(title, fontsize=9)
    axes.axis("off")
    return axes.imshow(values, cmap=pair.colors, vmin=pair.limits[0], vmax=pair.limits[1], extent=extent)


def _draw_pairs(axes: Axes, pairs: PointPairs) -> None:
    for index, (first, second, _) in enumerate(rows := drawn_rows(pairs)):
        color = COLORS[index % len(COLORS)]
        axes.plot([first, second], [index, index], color=color, linewidth=1.5)
        axes.plot([first], [index], "o", color=color, markersize=5)
        axes.plot([second], [index], "s", color=color, markersize=8, markerfacecolor="none")
    axes.set_yticks(range(len(rows)), [literal(label) for _, _, label in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(literal(pairs.title), loc="left", fontsize=10)
    axes.set_xlabel(f"dot: {pairs.names[0]}, square: {pairs.names[1]}", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
