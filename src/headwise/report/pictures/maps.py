"""Output maps over their targets, each pair on one color scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headwise.report.page.markup import Markup, element, number
from headwise.report.pictures.images import data_uri, encode, upright
from headwise.runs.samples import SampleMap, SavedSample
from headwise.runs.samples.parts import as_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headwise.runs.samples.parts import Points

_MAP_SIDE = 256
_COARSE = 40  # cells a side; from here down a cell is shown as a square, not smoothed


def map_tiles(sample: SavedSample) -> list[Markup]:
    """A column per map: the output, its target, and the color scale they share.

    Args:
        sample: the picture whose maps to show.

    Returns:
        One element a map.
    """
    line = _outline(sample.outline)
    return [_pair(pair, line) for pair in sample.maps]


def _pair(pair: SampleMap, line: Markup) -> Markup:
    shown = [("output", pair.values)] + ([("target", pair.target)] if pair.target is not None else [])
    coarse = " coarse" if max(pair.values.shape) <= _COARSE else ""
    pictures = [
        element(
            "div",
            element("img", src=data_uri(encode(colored(as_array(values), pair, _MAP_SIDE), "PNG"), "png"),
                    alt=f"{pair.title}, {role}"),
            line,
            class_=f"tile{coarse}{upright(pair.values.shape)}",
        )
        for role, values in shown
    ]  # fmt: skip
    low, high = pair.limits
    bar = element("img", src=data_uri(_bar(pair.colors), "png"), alt="", class_="bar")
    scale = element("div", element("span", number(low)), bar, element("span", number(high)), class_="colors")
    height, width = pair.values.shape
    tip = f"{pair.title}: {width} x {height}"
    return element("div", element("p", pair.title), *pictures, scale, class_="pair", data_tip=tip)


def _outline(mask: NDArray[np.bool_] | None) -> Markup:
    """The mask's border as a line that stays sharp at any size."""
    if mask is None or mask.all() or not mask.any():
        return Markup("")
    height, width = mask.shape
    lines = ("M" + "L".join(f"{x + 0.5:.4g} {y + 0.5:.4g}" for x, y in line.tolist()) for line in outlines(mask))
    d = Markup("".join(lines))
    return element("svg", element("path", d=d, class_="halo"), element("path", d=d, class_="outline"),
                   viewBox=f"0 0 {width} {height}", aria_hidden="true")  # fmt: skip


def outlines(mask: NDArray[np.bool_]) -> list[Points]:
    """Border lines of a mask, each (p, 2) pixels (x, y), every second point of long ones left out."""
    from contourpy import contour_generator

    lines: Any = contour_generator(z=mask.astype(float)).lines(0.5)
    return [line[:: 2 if len(line) > 24 else 1] for line in lines]


def colored(values: NDArray[Any], pair: SampleMap, side: int) -> NDArray[np.uint8]:
    """A map in its colors, at most about `side` pixels a side; values that are not finite are gray."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    colors = colormaps[pair.colors].with_extremes(bad="#808080")
    stride = max(1, -(-max(values.shape) // side))
    pixels = colors(Normalize(*pair.limits, clip=True)(np.ma.masked_invalid(values[::stride, ::stride])), bytes=True)
    return np.ascontiguousarray(pixels[..., :3])


def _bar(colors: str) -> bytes:
    import numpy as np
    from matplotlib import colormaps

    return encode(np.ascontiguousarray(colormaps[colors](np.linspace(0, 1, 128)[None], bytes=True)[..., :3]), "PNG")
