"""Held-out pictures on the page: the photograph with its polygons, and the maps beside their targets."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwise.report.markup import Markup, element, join, number
from headwise.report.page import figure
from headwise.report.samples import MapPair, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headwise.report.samples import Map, Points

_PHOTOGRAPH_SIDE, _MAP_SIDE = 640, 256


@dataclass(frozen=True)
class HeldOut:
    """A held-out picture on the page.

    Attributes:
        sample: what to show.
    """

    sample: Sample

    def html(self, key: str) -> Markup:
        """The photograph with polygons that can be switched, then the maps over their targets."""
        sample = self.sample
        ignored = f", {sum(sample.ignored)} of them ignored (dotted)" if any(sample.ignored) else ""
        found = f"{len(sample.detections)} detected (solid), {len(sample.polygons)} annotated (dashed){ignored}."
        tiles = [tile for pair in sample.maps for tile in _tiles(pair, sample.outline)]
        maps = (
            [element("div", *tiles, class_="maps")] if tiles else [element("p", "No maps were saved.", class_="note")]
        )
        switches = [
            element("label", element("input", type="checkbox", checked=True, data_layer=layer), text)
            for layer, text in (
                ("targets", "annotated"),
                ("detections", "detected"),
                ("outlines", "outlines on the maps"),
            )
        ]
        return figure(
            key,
            f"Picture {sample.name}",
            element("div", *switches, class_="switches"),
            element("div", _photograph(sample), *maps, class_="picture"),
            caption=f"{found} Maps: output above, target below; the outline is the annotated text region, outside "
            "which sin, cos and radius are not trained.",
            wide=True,
        )


def _photograph(sample: Sample) -> Markup:
    height, width = sample.image.shape[:2]
    picture = element(
        "img", src=data_uri(_photograph_bytes(sample.image), "jpeg"), alt=f"Held-out photograph {sample.name}"
    )
    targets = [
        _polygon(points, "target ignored" if ignored else "target", "annotated, ignored" if ignored else "annotated")
        for points, ignored in zip(sample.polygons, sample.ignored, strict=True)
    ]
    scores = [*sample.scores, *[None] * (len(sample.detections) - len(sample.scores))]
    detections = [
        _polygon(points, "detection", f"detected, score {number(score)}")
        for points, score in zip(sample.detections, scores, strict=False)
    ]
    layers = [element("g", *targets, class_="targets"), element("g", *detections, class_="detections")]
    overlay = element("svg", *layers, viewBox=f"0 0 {width} {height}", role="img",
                      aria_label=f"{len(targets)} annotated and {len(detections)} detected polygons")  # fmt: skip
    return element("div", picture, overlay, class_="photograph")


def _polygon(points: Points, style: str, tip: str) -> Markup:
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points.tolist()) + "Z"
    halo = element("path", d=d, class_="halo")
    return element("g", halo, element("path", d=d, class_=style, data_tip=tip), data_tip=tip)


def _tiles(pair: MapPair, outline: NDArray[np.bool_] | None) -> Iterator[Markup]:
    """One column: the output, its target, and the colour scale they share."""
    shown = [("output", pair.values)] + ([("target", pair.target)] if pair.target is not None else [])
    pictures = [
        element(
            "div",
            element("img", src=data_uri(_map_bytes(values, pair), "png"), alt=f"{pair.title}, {role}"),
            _outline(outline),
            class_="tile",
        )
        for role, values in shown
    ]
    low, high = pair.span
    bar = element("img", src=data_uri(_bar_bytes(pair.colours), "png"), alt="", class_="bar")
    scale = element("div", element("span", number(low)), bar, element("span", number(high)), class_="colours")
    yield element("div", element("p", pair.title), *pictures, scale, class_="pair")


def _outline(mask: NDArray[np.bool_] | None) -> Markup:
    """The mask's border as a line that stays sharp at any size."""
    if mask is None or mask.all() or not mask.any():
        return Markup("")
    height, width = mask.shape
    d = join("M" + "L".join(f"{x + 0.5:.4g} {y + 0.5:.4g}" for x, y in line.tolist()) for line in outlines(mask))
    return element("svg", element("path", d=d, class_="halo"), element("path", d=d, class_="outline"),
                   viewBox=f"0 0 {width} {height}", aria_hidden="true")  # fmt: skip


def outlines(mask: NDArray[np.bool_]) -> list[Points]:
    """Border lines of a mask, each (p, 2) pixels (x, y), every second point of long ones left out."""
    from contourpy import contour_generator

    lines: Any = contour_generator(z=mask.astype(float)).lines(0.5)
    return [line[:: 2 if len(line) > 24 else 1] for line in lines]


def _photograph_bytes(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((_PHOTOGRAPH_SIDE, _PHOTOGRAPH_SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=86)
    return content.getvalue()


def _map_bytes(values: Map, pair: MapPair) -> bytes:
    """The map in its colours, as a small PNG; values that are not finite are grey."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from PIL import Image

    colours = colormaps[pair.colours].with_extremes(bad="#808080")
    stride = max(1, -(-max(values.shape) // _MAP_SIDE))
    pixels = colours(Normalize(*pair.span, clip=True)(np.ma.masked_invalid(values[::stride, ::stride])), bytes=True)
    content = io.BytesIO()
    Image.fromarray(pixels[..., :3].copy()).quantize(128).save(content, "PNG", optimize=True)
    return content.getvalue()


def _bar_bytes(colours: str) -> bytes:
    import numpy as np
    from matplotlib import colormaps
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(colormaps[colours](np.linspace(0, 1, 128)[None], bytes=True)[..., :3].copy()).save(content, "PNG")
    return content.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """An image that is part of the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
