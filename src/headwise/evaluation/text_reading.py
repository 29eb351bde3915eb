"""From a picture to the words on it, and from many pictures to a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headwise.evaluation.held_out import HeldOut, run_together
from headwise.evaluation.text import evaluate_text
from headwise.runs.samples import SampleMap, Shapes, save_sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headwise.data import Picture, PictureDataset, TextAnnotation


@dataclass(frozen=True)
class FoundText:
    """What a network found on a picture.

    Args:
        polygons: outlines (v, 2) float32, points (x, y) in pixels of the picture, the best first.
        scores: (n,) in [0, 1].
        maps: (7, h, w) raw outputs, on the scale that the network saw.
        scale: of that scale to the picture's, (along x, along y).
    """

    polygons: list[Tensor]
    scores: Tensor
    maps: Tensor
    scale: tuple[float, float]


def read_text(
    network: nn.Module,
    images: Sequence[NDArray[np.uint8]],
    *,
    size: int,
    decode: Mapping[str, Any] | None = None,
) -> list[FoundText]:
    """Find the words on pictures; those of one shape are read together.

    The network is left in the mode, training or evaluation, in which it was.

    Args:
        network: returns ``{"maps": (N, 7, h, w)}``.
        images: each (H, W, 3) uint8 RGB.
        size: the longer side is scaled to this many pixels.
        decode: options of `coders.snakes.decode_snakes`.

    Returns:
        For each, outlines on its own scale.
    """
    resized = [_resize(image, size) for image in images]
    outputs = run_together(network, [pixels[None] for pixels, _ in resized])
    return [
        _reading(found["maps"].float().cpu(), scale, decode) for found, (_, scale) in zip(outputs, resized, strict=True)
    ]


def _reading(maps: Tensor, scale: tuple[float, float], decode: Mapping[str, Any] | None) -> FoundText:
    from headwise.coders.snakes import decode_snakes

    found = decode_snakes({"maps": maps}, **(decode or {}))[0]
    factor = torch.tensor(scale)
    # Pixel centers: the borders of the picture, half a pixel outside, are what scaling keeps in place.
    polygons = [(polygon + 0.5) / factor - 0.5 for polygon in found["polygons"]]
    return FoundText(polygons, found["scores"], maps[0], scale)


def held_out_text(
    pictures: PictureDataset, *, size: int, decode: Mapping[str, Any] | None = None, num_samples: int = 6
) -> HeldOut[FoundText]:
    """Return the evaluation of words on annotated pictures.

    Args:
        pictures: held out.
        size: as in `read_text`.
        decode: as in `read_text`.
        num_samples: how many pictures are saved for the page.

    Returns:
        Called, it gives ``iou50`` and ``deteval``, each with precision, recall and f, and ``num_images``.
    """
    return HeldOut(
        pictures,
        lambda network, image: read_text(network, [image], size=size, decode=decode)[0],
        _pair,
        evaluate_text,
        lambda folder, index, network, picture, reading: _save(folder, index, picture, reading),
        num_samples,
    )


def _pair(reading: FoundText, annotation: TextAnnotation) -> tuple[dict[str, Any], dict[str, Any]]:
    return (
        {"polygons": reading.polygons, "scores": reading.scores},
        {"polygons": list(annotation.polygons), "ignored": list(annotation.ignored)},
    )


def _resize(image: NDArray[np.uint8], size: int) -> tuple[Tensor, tuple[float, float]]:
    """Scale the longer side to `size` and normalize; return (3, h, w) and the scale along x and y."""
    import cv2
    import numpy as np

    from headwise.data import normalize

    height, width = image.shape[:2]
    factor = size / max(height, width)
    new_height, new_width = max(round(height * factor), 1), max(round(width * factor), 1)
    if (new_height, new_width) != (height, width):
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (new_width, new_height), interpolation=method), dtype=np.uint8)
    return normalize(image), (new_width / width, new_height / height)


def _save(folder: Path, index: int, picture: Picture, reading: FoundText) -> None:
    """Save a picture for the report, with points moved from pixel centers to pixel edges."""
    annotation = picture.annotation
    targets = _targets(annotation, reading)
    save_sample(
        folder,
        index,
        picture.image,
        annotated=Shapes([polygon + 0.5 for polygon in annotation.polygons], annotation.words, annotation.ignored),
        found=Shapes([polygon + 0.5 for polygon in reading.polygons], scores=reading.scores.tolist()),
        maps=_maps(reading.maps, targets),
        outline=targets["text_region"],
        name=picture.name,
        note="The line is the border of the annotated text, outside of which sin, cos and radius are not trained.",
    )


def _targets(annotation: TextAnnotation, reading: FoundText) -> dict[str, Tensor]:
    """The targets (h, w) on the scale that the network saw."""
    from headwise.coders.snakes import encode_snakes

    height, width = reading.maps.shape[-2:]
    scaled = [(polygon + 0.5) * reading.scale - 0.5 for polygon in annotation.polygons]
    targets = encode_snakes([scaled], [annotation.ignored], size=(height, width))
    return {name: target[0] for name, target in targets.items()}


def _maps(maps: Tensor, targets: Mapping[str, Tensor]) -> list[SampleMap]:
    """The five maps of seven channels: two pairs of logits become probabilities."""
    region, line = maps[0:2].softmax(0)[1], maps[2:4].softmax(0)[1]
    sin, cos, radius = maps[4:].half()
    tallest = max(1.0, *(float(each.nan_to_num(0, 0, 0).max()) for each in (radius, targets["radius"])))
    return [
        SampleMap("text region (probability)", region.half(), targets["text_region"], (0, 1)),
        SampleMap("center line (probability)", line.half(), targets["center_line"], (0, 1)),
        SampleMap("sin (direction of the line)", sin, targets["sin"], (-1, 1), "RdBu"),
        SampleMap("cos (direction of the line)", cos, targets["cos"], (-1, 1), "RdBu"),
        SampleMap("radius (pixels)", radius, targets["radius"], (0, tallest), "viridis"),
    ]
