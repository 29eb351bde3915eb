"""Boxes on one picture, as COCO JSON and drawn."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from headwise.evaluation.held_out import evaluating
from headwise.recipes.boxes.configuration import BoxConfiguration
from headwise.recipes.boxes.evaluation import SHOWN_SCORE, B, Found, Reader
from headwise.recipes.run import PictureFile, Prediction
from headwise.runs.samples import encode_png

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def box_predictor(
    read: Reader[B],
) -> Callable[[nn.Module, B, Sequence[PictureFile], float | None], list[Prediction]]:
    """Return the prediction of a recipe from its reader.

    Args:
        read: as in `held_out_boxes`.

    Returns:
        (network, configuration, pictures, least score) -> for each a COCO file of the picture: ``images``,
        ``categories`` and ``annotations``, each with ``bbox`` (x, y, width, height in pixels of the picture),
        ``category_id`` and ``score``, the best first; and the overlay, which shows those that score 0.3 or more, or the
        least score.
    """

    def predict(
        network: nn.Module, configuration: B, pictures: Sequence[PictureFile], threshold: float | None
    ) -> list[Prediction]:
        with evaluating(network):
            found = read(network, configuration, [picture.image for picture in pictures])
        return [
            _prediction(picture, _above(each, threshold or 0.0), configuration, threshold)
            for picture, each in zip(pictures, found, strict=True)
        ]

    return predict


def _prediction(
    picture: PictureFile, found: Found, configuration: BoxConfiguration, threshold: float | None
) -> Prediction:
    shown = _above(found, SHOWN_SCORE if threshold is None else threshold)
    overlay = _overlay(picture.image, shown, configuration)
    return Prediction(_record(picture.path, picture.image, found, configuration), {".png": overlay}, found)


def _above(found: Found, threshold: float) -> Found:
    """Return the boxes that score as much."""
    kept = found["scores"] >= threshold
    return {name: found[name][kept] for name in ("boxes", "scores", "labels")}


def _record(
    path: Path, image: NDArray[np.uint8], found: Mapping[str, Any], configuration: BoxConfiguration
) -> dict[str, Any]:
    height, width = image.shape[:2]
    rows = zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": configuration.category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "score": score,
        }
        for number, ((x1, y1, x2, y2), score, label) in enumerate(rows, start=1)
    ]
    categories = zip(configuration.category_ids, configuration.class_names, strict=True)
    return {
        "images": [{"id": 1, "file_name": path.name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }


def _overlay(image: NDArray[np.uint8], found: Mapping[str, Any], configuration: BoxConfiguration) -> bytes:
    """Draw the boxes, the best on top, each in the color of its class; return the bytes of a PNG."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    unit = max(picture.size) / 512
    font = ImageFont.load_default(max(12 * unit, 10))
    rows = zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
    for box, score, label in reversed(list(rows)):
        color = _color(label, configuration.num_classes)
        draw.rectangle(box, outline=color, width=max(round(2 * unit), 1))
        draw.text(
            (box[0], box[1]),
            f"{configuration.class_names[label]} {score:.2f}",
            fill=color,
            font=font,
            anchor="ls" if box[1] > 12 * unit else "la",
            stroke_width=1,
            stroke_fill=(0, 0, 0),
        )
    return encode_png(picture)


def _color(label: int, num_classes: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(label / max(num_classes, 1), 0.65, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
