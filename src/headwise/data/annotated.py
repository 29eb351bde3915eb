"""A picture with its annotation drawn on it, to be looked at."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from headwise.data.annotation import BoxAnnotation, Picture, TextAnnotation
from headwise.data.instances import InstanceAnnotation

_TURN = 0.618034  # of the color circle between two numbers: neighbors never look alike
_IGNORED = (150, 150, 150)


def draw_annotation(picture: Picture[Any], class_names: Sequence[str] = ()) -> Image.Image:
    """Draw what was annotated: boxes with the names of their classes, outlines of words, the borders of objects.

    Args:
        picture: with boxes, words or an instance map.
        class_names: of the boxes' labels.

    Returns:
        The picture.

    Raises:
        ValueError: an annotation of another kind.
    """
    annotation = picture.annotation
    if isinstance(annotation, InstanceAnnotation):
        return Image.fromarray(_with_borders(picture.image, annotation.label))
    image = Image.fromarray(picture.image)
    pen, width = ImageDraw.Draw(image), max(round(max(image.size) / 400), 1)
    if isinstance(annotation, BoxAnnotation):
        for box, label, ignored in zip(annotation.boxes.tolist(), annotation.labels, annotation.ignored, strict=True):
            color = _IGNORED if ignored else _color(int(label))
            pen.rectangle(box, outline=color, width=width)
            pen.text((box[0] + width, box[1] + width), class_names[label] if class_names else str(label), fill=color)
        return image
    if isinstance(annotation, TextAnnotation):
        for number, (polygon, ignored) in enumerate(zip(annotation.polygons, annotation.ignored, strict=True)):
            points = [(x, y) for x, y in polygon.tolist()]
            pen.line([*points, points[0]], fill=_IGNORED if ignored else _color(number), width=width)
        return image
    raise ValueError(
        f"an annotation of {type(annotation).__name__} cannot be drawn. Give boxes, words or an instance map."
    )


def _with_borders(image: NDArray[np.uint8], label: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Color the pixels of objects that touch another number."""
    padded = np.pad(label, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = (label > 0) & np.any([each != label for each in around], axis=0)
    drawn = image.copy()
    numbers, places = np.unique(label[border], return_inverse=True)
    if len(numbers):
        drawn[border] = np.array([_color(int(number)) for number in numbers], np.uint8)[places.ravel()]
    return drawn


def _color(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number * _TURN % 1, 0.85, 1)
    return round(255 * red), round(255 * green), round(255 * blue)
