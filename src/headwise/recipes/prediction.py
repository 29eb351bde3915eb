"""Reading words from pictures with a trained checkpoint, and showing them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from headwise.recipes.configuration import Configuration
from headwise.recipes.textsnake import PRESET, make_network
from headwise.training.checkpoints import list_checkpoints, load_checkpoint, write_atomically
from headwise.training.text_reading import Reading, read_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLOR = (20, 230, 90)


def load_network(checkpoint: str | Path) -> tuple[nn.Module, Configuration]:
    """Build the network of a checkpoint.

    Args:
        checkpoint: a checkpoint of the recipe `textsnake`, or the folder of a run, whose newest is taken.

    Returns:
        The network, in evaluation mode, and the configuration that it was trained with.

    Raises:
        ValueError: the file is truncated, no checkpoint, incomplete, or of another preset.
        FileNotFoundError: there is no such file.
    """
    path = Path(checkpoint)
    if path.is_dir():
        newest = list_checkpoints(path / "checkpoints")
        if not newest:
            raise FileNotFoundError(f"{path}: no checkpoint in this folder. Give a checkpoint or a run.")
        path = newest[0]
    state = load_checkpoint(path, PRESET)
    for key in ("arguments", "network"):
        if not isinstance(state.get(key), Mapping):
            raise ValueError(f"{path}: no {key!r} in this checkpoint. Use one that `headwise train` wrote.")
    configuration = Configuration.from_dict(state["arguments"], str(path))
    network = make_network(configuration)
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:120]
        raise ValueError(
            f"{path}: the weights do not fit the network of its arguments ({reason}). Use another checkpoint."
        ) from None
    return network.eval(), configuration


def predict(checkpoint: str | Path, images: Iterable[str | Path], out: str | Path) -> list[Path]:
    """Find the words on pictures; write ``<picture>.json`` and an overlay ``<picture>.png`` for each.

    All pictures are decoded before anything is written.

    Args:
        checkpoint: as in `load_network`.
        images: files.
        out: folder; created if missing.

    Returns:
        The JSON files, in the order of the pictures. Each holds ``image``, ``width``, ``height`` and
        ``words``, a list of ``polygon`` (points x, y in pixels of the picture) and ``score``, the best
        first.

    Raises:
        ValueError: the checkpoint cannot be used, or two pictures have one name.
        OSError: a picture cannot be read or a result cannot be written.
    """
    from headwise.data import load_picture

    network, configuration = load_network(checkpoint)
    paths = [Path(image) for image in images]
    names = [path.stem for path in paths]
    for path in paths:
        if names.count(path.stem) > 1:
            raise ValueError(f"{path}: two pictures are called {path.stem!r}. Predict them into two folders.")
        load_picture(path)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in paths:
        image = load_picture(path)
        reading = read_text(network, image, size=configuration.inference_size, decode=configuration.decode)
        write_atomically(folder / f"{path.stem}.png", _overlay(image, reading))
        written.append(folder / f"{path.stem}.json")
        write_atomically(written[-1], json.dumps(_words(path, image, reading), indent=1).encode() + b"\n")
    return written


def _words(path: Path, image: NDArray[np.uint8], reading: Reading) -> dict[str, Any]:
    words = [
        {"polygon": [[round(x, 2), round(y, 2)] for x, y in polygon.tolist()], "score": round(score, 4)}
        for polygon, score in zip(reading.polygons, reading.scores.tolist(), strict=True)
    ]
    return {"image": path.name, "width": image.shape[1], "height": image.shape[0], "words": words}


def _overlay(image: NDArray[np.uint8], reading: Reading) -> bytes:
    """Draw the outlines, filled faintly, with their scores; return the bytes of a PNG."""
    import io

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
    buffer = io.BytesIO()
    Image.alpha_composite(picture, layer).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
