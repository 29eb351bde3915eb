"""Held-out pictures on the page: the photograph with its outlines, output maps beside their targets, and what else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from headwise.report.page.blocks import figure
from headwise.report.page.markup import Markup, element, number
from headwise.report.pictures.images import data_uri, encode, fitted, upright
from headwise.report.pictures.instances import instance_tiles
from headwise.report.pictures.maps import map_tiles
from headwise.report.pictures.strips import strip
from headwise.runs.samples import SavedSample, Shape

_PHOTOGRAPH_SIDE = 640
_MOST_LABELS = 40
_LAYERS = {"annotated": "annotated", "found": "found", "labels": "names", "outlines": "outlines on the maps"}


@dataclass(frozen=True)
class SampleFigure:
    """A held-out picture on the page.

    Attributes:
        sample: what to show.
    """

    sample: SavedSample

    def html(self, key: str) -> Markup:
        """The photograph with outlines that can be switched, then maps over their targets, then pairs of points."""
        sample = self.sample
        beside = [
            element("div", *tiles, class_=f"{kind} columns{columns}")
            for kind, tiles, columns in (
                ("instances", instance_tiles(sample), 2),
                ("maps", map_tiles(sample), _num_columns(len(sample.maps))),
            )
            if tiles
        ]
        strips = [element("div", *(strip(pairs) for pairs in sample.pairs), class_="strips")] if sample.pairs else []
        alone = "" if beside else " alone"
        return figure(
            key,
            f"Picture {sample.title}",
            element("div", *self._switches(), class_="switches"),
            element(
                "div", _photograph(sample), *([element("div", *beside)] if beside else []), class_=f"picture{alone}"
            ),
            *strips,
            caption=self._caption(),
            wide=True,
        )

    def _switches(self) -> list[Markup]:
        sample = self.sample
        shapes = [*sample.annotated, *sample.found]
        there = {
            "annotated": sample.annotated,
            "found": sample.found,
            "labels": any(shape.label for shape in shapes),
            "outlines": sample.outline is not None and sample.maps,
        }
        return [
            element("label", element("input", type="checkbox", checked=True, data_layer=layer), text)
            for layer, text in _LAYERS.items()
            if there[layer]
        ]

    def _caption(self) -> str:
        sample = self.sample
        num_ignored = sum(shape.ignored for shape in sample.annotated)
        ignored = f", {num_ignored} of them ignored (dotted)" if num_ignored else ""
        told = [f"{len(sample.found)} found (solid), {len(sample.annotated)} annotated (dashed){ignored}."]
        if sample.instances is not None and not sample.found and not sample.annotated:
            told = ["Each color is one object; the colors of found and annotated objects need not agree."]
        broken = sum(not is_finite(shape) for shape in (*sample.annotated, *sample.found))
        told += [f"{broken} with coordinates that are not finite are not drawn."] if broken else []
        if any(pair.target is not None for pair in sample.maps):
            told.append("Maps: output above, target below, on one color scale.")
        return " ".join([*told, *([sample.note] if sample.note else [])])


def is_finite(shape: Shape) -> bool:
    """Whether an outline can be drawn: it has points, and all of them are finite."""
    return len(shape.points) > 0 and all(map(math.isfinite, shape.points.ravel().tolist()))


def told(shape: Shape, role: str) -> str:
    """What an outline is, in words: `found: three, score 0.93`."""
    parts = [f"{role}: {shape.label}" if shape.label else role]
    parts += ["ignored"] if shape.ignored else []
    parts += [] if math.isnan(shape.score) else [f"score {number(round(shape.score, 3))}"]
    return ", ".join(parts)


def _num_columns(num_maps: int) -> int:
    """Up to five maps stand in one row, which is never so short that its maps outgrow the photograph."""
    return max(3, num_maps) if num_maps <= 5 else 3 if num_maps == 6 else 4 if num_maps <= 8 else 5


def _photograph(sample: SavedSample) -> Markup:
    height, width = sample.image.shape[:2]
    content = encode(fitted(sample.image, _PHOTOGRAPH_SIDE), "JPEG")
    picture = element("img", src=data_uri(content, "jpeg"), alt=f"Held-out photograph {sample.title}")
    layers = [_layer(sample.annotated, "annotated", width), _layer(sample.found, "found", width)]
    overlay = element(
        "svg", *layers, viewBox=f"0 0 {width} {height}", role="img",
        aria_label=f"{len(sample.annotated)} annotated and {len(sample.found)} found outlines",
    )  # fmt: skip
    return element("div", picture, overlay, class_=f"photograph{upright(sample.image.shape)}")


def _layer(shapes: Iterable[Shape], role: str, width: int) -> Markup:
    """All outlines of one kind; names only where there are few enough to be read."""
    drawn = [shape for shape in shapes if is_finite(shape)]
    outlines = [_outline(shape, role) for shape in drawn]
    names = [_name(shape, role, width) for shape in drawn if shape.label] if len(drawn) <= _MOST_LABELS else []
    return element("g", *outlines, element("g", *names, class_="labels"), class_=role)


def _outline(shape: Shape, role: str) -> Markup:
    tip = told(shape, role)
    d = Markup("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in shape.points.tolist()) + "Z")
    style = f"{role}-line ignored" if shape.ignored else f"{role}-line"
    return element("g", element("path", d=d, class_="halo"), element("path", d=d, class_=style), data_tip=tip)


def _name(shape: Shape, role: str, width: int) -> Markup:
    """The label: of what was found above its upper left corner, of what is annotated below its lower left one."""
    size = width / 42
    left = max(float(shape.points[:, 0].min()), 0.0)
    top, bottom = float(shape.points[:, 1].min()), float(shape.points[:, 1].max())
    y = max(top - 0.3 * size, size) if role == "found" else bottom + 0.95 * size
    score = "" if math.isnan(shape.score) else f" {shape.score:.2f}"
    return element("text", shape.label + score, x=f"{left:.1f}", y=f"{y:.1f}", font_size=f"{size:.1f}")
