"""Label maps over the photograph: one color and a border per object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwise.report.page.markup import Markup, element
from headwise.report.pictures.images import data_uri, encode, fitted, upright
from headwise.runs.samples import SavedSample
from headwise.runs.samples.parts import as_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIDE = 512
_GOLDEN = 0.618033988749895  # of the color circle: neighboring numbers get colors far apart


def instance_tiles(sample: SavedSample) -> list[Markup]:
    """What was found and what is annotated, side by side; nothing where the sample has no label maps.

    Args:
        sample: the picture.

    Returns:
        Two elements, or none.
    """
    if sample.instances is None:
        return []
    roles = (("found", as_array(sample.instances.found)), ("annotated", as_array(sample.instances.annotated)))
    return [_tile(sample, role, labels) for role, labels in roles]


def _tile(sample: SavedSample, role: str, labels: NDArray[np.int32]) -> Markup:
    import numpy as np

    numbers = np.unique(labels)
    num = len(numbers[numbers != 0])
    title = f"{num} object{'s' * (num != 1)} {role}"
    picture = element("img", src=data_uri(encode(painted(sample.image, labels), "JPEG"), "jpeg"), alt=title)
    tile = element("div", picture, class_=f"tile{upright(labels.shape)}")
    return element("div", element("p", title), tile, class_="pair")


def painted(image: NDArray[np.uint8], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The photograph in gray, objects in their colors, with a light border round each.

    Args:
        image: (H, W, 3).
        labels: (h, w), 0 the background; stretched over the picture.

    Returns:
        (H', W', 3), at most 512 pixels a side.
    """
    import numpy as np

    shown = fitted(image, _SIDE)
    height, width = shown.shape[:2]
    rows = (np.arange(height) * labels.shape[0]) // height
    columns = (np.arange(width) * labels.shape[1]) // width
    numbers = labels[rows][:, columns]
    gray = np.repeat(shown.mean(axis=2, keepdims=True), 3, axis=2)
    mixed = np.where((numbers != 0)[..., None], 0.45 * gray + 0.55 * _colors(numbers), 0.8 * gray)
    return np.where(_borders(numbers)[..., None], 250.0, mixed).astype(np.uint8)


def _colors(numbers: NDArray[np.int32]) -> NDArray[np.float64]:
    """A color (H, W, 3) in 0 to 255 for each number, the same for the same number."""
    import numpy as np
    from matplotlib.colors import hsv_to_rgb

    known, places = np.unique(numbers, return_inverse=True)
    hues = (known.astype(np.float64) * _GOLDEN) % 1.0
    table = 255 * hsv_to_rgb(np.stack([hues, np.full(len(hues), 0.85), np.ones(len(hues))], axis=1))
    return np.asarray(table[places.reshape(numbers.shape)])


def _borders(numbers: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where an object's pixel has a neighbor, to the right or below, of another number."""
    import numpy as np

    border = np.zeros(numbers.shape, bool)
    border[:, :-1] |= numbers[:, :-1] != numbers[:, 1:]
    border[:-1] |= numbers[:-1] != numbers[1:]
    return border
