"""Photographs that ship inside scikit-image, scikit-learn and matplotlib, as backgrounds of drawn pictures."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from headwise.data.pictures import load_picture
from headwise.require import require

Split = Literal["train", "held_out"]
Pixels = NDArray[np.uint8]

PHOTOGRAPHS: dict[Split, tuple[str, ...]] = {
    "train": (
        "skimage/data/astronaut.png",
        "skimage/data/brick.png",
        "skimage/data/camera.png",
        "skimage/data/coffee.png",
        "skimage/data/grass.png",
        "skimage/data/gravel.png",
        "skimage/data/hubble_deep_field.jpg",
        "skimage/data/ihc.png",
        "skimage/data/moon.png",
        "skimage/data/motorcycle_left.png",
        "skimage/data/retina.jpg",
        "sklearn/datasets/images/flower.jpg",
    ),
    "held_out": (
        "skimage/data/chelsea.png",
        "skimage/data/coins.png",
        "skimage/data/rocket.jpg",
        "sklearn/datasets/images/china.jpg",
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    ),
}
"""Which photograph is in which split; first the package, then the file inside it."""

_PACKAGES = ("skimage", "sklearn", "matplotlib")


def check_split(split: str) -> None:
    """Refuse an unknown split, and say which package of photographs is missing.

    Args:
        split: "train" or "held_out".

    Raises:
        ValueError: an unknown split.
        ImportError: a package whose photographs are needed is not installed.
    """
    if split not in PHOTOGRAPHS:
        raise ValueError(f"no split {split!r} in the embedded data set; there are: {', '.join(PHOTOGRAPHS)}.")
    require("the embedded pictures", "data", *_PACKAGES)


@lru_cache(maxsize=32)
def _photograph(name: str) -> Pixels:
    package, _, inside = name.partition("/")
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return load_picture(Path(spec.submodule_search_locations[0]) / inside)


def background(generator: np.random.Generator, split: Split, size: int) -> Pixels:
    """Cut a random square, between a third and all of the shorter side of a photograph, perhaps mirrored.

    Args:
        generator: the source of chance.
        split: whose photographs.
        size: height and width of the result, pixels.

    Returns:
        (size, size, 3), the caller's own.
    """
    photograph = _photograph(PHOTOGRAPHS[split][int(generator.integers(len(PHOTOGRAPHS[split])))])
    height, width = photograph.shape[:2]
    side = int(min(height, width) * generator.uniform(0.34, 1.0))
    top, left = int(generator.integers(height - side + 1)), int(generator.integers(width - side + 1))
    cut = photograph[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    image = cv2.resize(cut, (size, size), interpolation=method)
    if generator.random() < 0.5:
        image = image[:, ::-1]
    return np.ascontiguousarray(image, dtype=np.uint8)
