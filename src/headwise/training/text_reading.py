"""From a picture to the words on it, and from many pictures to a score."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headwise.training.checkpoints import write_atomically
from headwise.training.text_evaluation import evaluate_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headwise.data import Picture, PictureDataset, TextAnnotation


@dataclass(frozen=True)
class Reading:
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


@torch.no_grad()
def read_text(
    network: nn.Module,
    image: NDArray[np.uint8],
    *,
    size: int,
    decode: Mapping[str, Any] | None = None,
) -> Reading:
    """Find the words on one picture.

    The network is left in the mode, training or evaluation, in which it was.

    Args:
        network: returns ``{"maps": (1, 7, h, w)}``.
        image: (H, W, 3) uint8 RGB.
        size: the longer side is scaled to this many pixels.
        decode: options of `coders.snakes.decode_snakes`.

    Returns:
        Outlines on the picture's own scale.
    """
    from headwise.coders.snakes import decode_snakes

    device = next(network.parameters()).device
    resized, scale = _resize(image, size)
    was_training = network.training
    network.eval()
    try:
        maps = network(resized[None].to(device, memory_format=torch.channels_last))["maps"].float().cpu()
    finally:
        network.train(was_training)
    found = decode_snakes({"maps": maps}, **(decode or {}))[0]
    factor = torch.tensor(scale)
    # Pixel centres: the borders of the picture, half a pixel outside, are what scaling keeps in place.
    polygons = [(polygon + 0.5) / factor - 0.5 for polygon in found["polygons"]]
    return Reading(polygons, found["scores"], maps[0], scale)


def evaluate_pictures(
    network: nn.Module,
    pictures: PictureDataset,
    *,
    size: int,
    decode: Mapping[str, Any] | None = None,
    samples: Path | None = None,
    num_samples: int = 6,
) -> dict[str, Any]:
    """Score a network on annotated pictures.

    Args:
        network: as in `read_text`.
        pictures: held out.
        size: as in `read_text`.
        decode: as in `read_text`.
        samples: folder for the first pictures, as PNG and with maps and outlines as npz; None for none.
        num_samples: how many of them.

    Returns:
        ``iou50`` and ``deteval``, each with precision, recall and f, and ``num_images``.
    """
    found, known = [], []
    for index in range(len(pictures)):
        picture = pictures[index]
        reading = read_text(network, picture.image, size=size, decode=decode)
        found.append({"polygons": reading.polygons, "scores": reading.scores})
        annotation = picture.annotation
        known.append({"polygons": list(annotation.polygons), "ignored": list(annotation.ignored)})
        if samples is not None and index < num_samples:
            samples.mkdir(parents=True, exist_ok=True)
            write_atomically(samples / f"{index:03d}.npz", _sample(picture, reading))
            write_atomically(samples / f"{index:03d}.png", _png(picture))
    return {**evaluate_text(found, known), "num_images": len(pictures)}


def _resize(image: NDArray[np.uint8], size: int) -> tuple[Tensor, tuple[float, float]]:
    """Scale the longer side to `size` and normalise; return (3, h, w) and the scale along x and y."""
    import cv2
    import numpy as np

    from headwise.data import normalise

    height, width = image.shape[:2]
    factor = size / max(height, width)
    new_height, new_width = max(round(height * factor), 1), max(round(width * factor), 1)
    if (new_height, new_width) != (height, width):
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (new_width, new_height), interpolation=method), dtype=np.uint8)
    return normalise(image), (new_width / width, new_height / height)


def _sample(picture: Picture, reading: Reading) -> bytes:
    """Return the bytes of a sample: picture, maps, targets, annotated and found outlines."""
    import numpy as np

    from headwise.coders.snakes import encode_snakes

    height, width = reading.maps.shape[-2:]
    factor = np.array(reading.scale)
    annotation: TextAnnotation = picture.annotation
    scaled = [(polygon + 0.5) * factor - 0.5 for polygon in annotation.polygons]
    targets = encode_snakes([scaled], [annotation.ignored], size=(height, width))
    points, lengths = _flatten(annotation.polygons)
    found_points, found_lengths = _flatten([polygon.numpy() for polygon in reading.polygons])
    arrays: dict[str, Any] = {
        "image": picture.image,
        "maps": reading.maps.numpy().astype(np.float16),
        "polygons": points,
        "lengths": lengths,
        "ignored": np.array(annotation.ignored, dtype=bool),
        "detection_points": found_points,
        "detection_lengths": found_lengths,
        "scores": reading.scores.numpy(),
        **{name: target[0].numpy() for name, target in targets.items()},
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _png(picture: Picture) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture.image).save(buffer, "PNG")
    return buffer.getvalue()


def _flatten(polygons: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return all points (V, 2) of the polygons one after the other, and how many each has."""
    import numpy as np

    points = np.concatenate([np.zeros((0, 2)), *polygons]).astype(np.float32)
    return points, np.array([len(polygon) for polygon in polygons], dtype=np.int64)
