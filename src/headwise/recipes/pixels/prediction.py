"""Finding objects on one picture with a trained network, and showing them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwise.recipes.pixels.configuration import PixelConfiguration
from headwise.recipes.run import Prediction
from headwise.training.instance_reading import Found, find_instances
from headwise.training.samples import encode_png

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_OBJECTS = 2**16 - 1  # that a 16-bit PNG can number
_TURN = 0.618034  # of the colour circle between two numbers: neighbours never look alike


def predict_instances(
    network: Any, configuration: PixelConfiguration, path: Path, image: NDArray[np.uint8]
) -> Prediction:
    """Find the objects on a picture.

    Args:
        network: the U-Net.
        configuration: that it was trained with.
        path: of the picture, for its name.
        image: (H, W, 3) uint8.

    Returns:
        ``image``, ``width``, ``height`` and ``objects``, a list of ``number``, ``score``, ``area`` (pixels) and
        ``box`` (x1, y1, x2, y2, pixel edges); the overlay, and ``_label.png``, whose 16-bit pixels are the objects'
        numbers.

    Raises:
        ValueError: more objects than 16 bits can number.
    """
    found = find_instances(network, image, configuration.decode)
    if len(found.scores) > _MOST_OBJECTS:
        raise ValueError(
            f"{path}: {len(found.scores)} objects, but a label PNG numbers {_MOST_OBJECTS} at most. Raise min_area."
        )
    return Prediction(_record(path, found), {".png": _overlay(image, found), "_label.png": _label(found)})


def _record(path: Path, found: Found) -> dict[str, Any]:
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


def _label(found: Found) -> bytes:
    import numpy as np

    return encode_png(found.label.numpy().astype(np.uint16))


def _overlay(image: NDArray[np.uint8], found: Found) -> bytes:
    """Tint each object in a colour of its own, and draw its border."""
    import colorsys

    import numpy as np
    from scipy import ndimage

    label = found.label.numpy()
    hues = [colorsys.hsv_to_rgb(number * _TURN % 1, 0.85, 1) for number in range(int(label.max()) + 1)]
    colours = (255 * np.array(hues))[label]
    shrunk = ndimage.grey_erosion(label, 3) == ndimage.grey_dilation(label, 3)
    share = np.where(label == 0, 0.0, np.where(shrunk, 0.3, 1.0))[:, :, None]
    return encode_png((share * colours + (1 - share) * image).round().astype(np.uint8))
