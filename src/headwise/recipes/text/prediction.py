"""Reading words from one picture with a trained network, and showing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from headwise.evaluation.text_reading import FoundText, read_text
from headwise.recipes.run import PictureFile, Prediction
from headwise.recipes.text.configuration import TextConfiguration
from headwise.runs.samples import encode_png

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLOR = (20, 230, 90)


def predict_words(
    network: nn.Module, configuration: TextConfiguration, pictures: Sequence[PictureFile], threshold: float | None
) -> list[Prediction]:
    """Find the words on pictures; those of one shape are read together.

    Args:
        network: in evaluation mode.
        configuration: that it was trained with.
        pictures: to read.
        threshold: least score of a word; None for all that the decoder finds.

    Returns:
        For each ``image``, ``width``, ``height`` and ``words``, a list of ``polygon`` (points x, y in pixels of the
        picture) and ``score``, the best first; and the overlay.
    """
    found = []
    images = [picture.image for picture in pictures]
    readings = read_text(network, images, size=configuration.inference_size, decode=configuration.decode)
    for (path, image), reading in zip(pictures, readings, strict=True):
        number = int((reading.scores >= (threshold or 0.0)).sum())  # the best come first
        kept = replace(reading, polygons=reading.polygons[:number], scores=reading.scores[:number])
        found.append(Prediction(_words(path, image, kept), {".png": _overlay(image, kept)}))
    return found


def _words(path: Path, image: NDArray[np.uint8], reading: FoundText) -> dict[str, Any]:
    words = [
        {"polygon": [[round(x, 2), round(y, 2)] for x, y in polygon.tolist()], "score": round(score, 4)}
        for polygon, score in zip(reading.polygons, reading.scores.tolist(), strict=True)
    ]
    return {"image": path.name, "width": image.shape[1], "height": image.shape[0], "words": words}


def _overlay(image: NDArray[np.uint8], reading: FoundText) -> bytes:
    """Draw the outlines, filled faintly, with their scores; return the bytes of a PNG."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(image).convert("RGBA")
    layer = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(layer)
    unit = max(picture.size) / 512
    font = ImageFont.load_default(max(11 * unit, 10))
    for polygon, score in zip(reading.polygons, reading.scores.tolist(), strict=True):
        points = [(float(x), float(y)) for x, y in polygon]
        draw.polygon(points, fill=(*_COLOR, 48))
        draw.line([*points, points[0]], fill=(*_COLOR, 255), width=max(round(1.5 * unit), 1))
        corner = min(points, key=lambda point: (point[1], point[0]))
        draw.text(
            corner,
            f"{score:.2f}",
            fill=(255, 255, 255, 255),
            font=font,
            anchor="ls",
            stroke_width=1,
            stroke_fill=(0, 0, 0, 255),
        )
    return encode_png(Image.alpha_composite(picture, layer).convert("RGB"))
