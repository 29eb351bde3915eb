"""Finding objects on one picture with a trained network, and showing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headwise.evaluation.instance_reading import FoundInstances, find_instances
from headwise.recipes.pixels.configuration import PixelConfiguration
from headwise.recipes.run import PictureFile, Prediction
from headwise.runs.samples import encode_png

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_OBJECTS = 2**16 - 1  # that a 16-bit PNG can number
_TURN = 0.618034  # of the color circle between two numbers: neighbors never look alike


ENDINGS = (".png", "_label.png")


def predict_instances(
    network: Any, configuration: PixelConfiguration, pictures: Sequence[PictureFile], threshold: float | None
) -> list[Prediction]:
    """Find the objects on pictures; those of one size are read together.

    Args:
        network: the U-Net.
        configuration: that it was trained with.
        pictures: to read.
        threshold: least score of an object; None for all that the decoder finds.

    Returns:
        For each ``image``, ``width``, ``height`` and ``objects``, a list of ``number``, ``score``, ``area`` (pixels)
        and ``box`` (x1, y1, x2, y2, pixel edges); the overlay, and ``_label.png``, whose 16-bit pixels are the
        objects' numbers.

    Raises:
        ValueError: more objects than 16 bits can number.
    """
    predictions = []
    everything = find_instances(network, [picture.image for picture in pictures], configuration.decode)
    for (path, image), each in zip(pictures, everything, strict=True):
        found = _above(each, threshold or 0.0)
        if len(found.scores) > _MOST_OBJECTS:
            raise ValueError(
                f"{path}: {len(found.scores)} objects, but a label PNG numbers {_MOST_OBJECTS} at most. Raise min_area."
            )
        files = dict(zip(ENDINGS, (_overlay(image, found), _label(found)), strict=True))
        predictions.append(Prediction(_record(path, found), files))
    return predictions


def _above(found: FoundInstances, threshold: float) -> FoundInstances:
    """Return the objects that score as much, numbered anew."""
    kept = found.scores >= threshold
    numbers = torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0) * kept])
    return replace(found, label=numbers[found.label], scores=found.scores[kept])


def _record(path: Path, found: FoundInstances) -> dict[str, Any]:
    from scipy import ndimage

    label = found.label.numpy()
    objects = [
        {
            "number": number,
            "score": round(score, 4),
            "area": int((label[place] == number).sum()),
            "box": [place[1].start, place[0].start, place[1].stop, place[0].stop],
        }
        for number, (score, place) in enumerate(
            zip(found.scores.tolist(), ndimage.find_objects(label), strict=True), start=1
        )
    ]
    return {"image": path.name, "width": label.shape[1], "height": label.shape[0], "objects": objects}


def _label(found: FoundInstances) -> bytes:
    import numpy as np

    return encode_png(found.label.numpy().astype(np.uint16))


def _overlay(image: NDArray[np.uint8], found: FoundInstances) -> bytes:
    """Tint each object in a color of its own, and draw its border."""
    import colorsys

    import numpy as np
    from scipy import ndimage

    label = found.label.numpy()
    hues = [colorsys.hsv_to_rgb(number * _TURN % 1, 0.85, 1) for number in range(int(label.max()) + 1)]
    colors = (255 * np.array(hues))[label]
    shrunk = ndimage.grey_erosion(label, 3) == ndimage.grey_dilation(label, 3)
    share = np.where(label == 0, 0.0, np.where(shrunk, 0.3, 1.0))[:, :, None]
    return encode_png((share * colors + (1 - share) * image).round().astype(np.uint8))
