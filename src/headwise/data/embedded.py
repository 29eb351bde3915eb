"""Words set along curves on photographs that ship inside scikit-image, scikit-learn and matplotlib.

Nothing is downloaded and nothing is stored: picture number i is drawn from (seed, split, i), the same on
every machine with the same package versions. The splits share no photograph and no word.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from headwise.data.annotation import Picture, Polygon, TextAnnotation
from headwise.data.curves import Curve, random_curve
from headwise.data.pictures import load_picture
from headwise.data.printing import claim, print_word
from headwise.data.words import HELD_OUT_WORDS, TRAIN_WORDS, FlatWord, draw_word

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

_PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}
_ATTEMPTS = 20
_MOST_KEPT = 2**27  # bytes; smaller data sets stay in memory once they are drawn


class EmbeddedText:
    """Annotated pictures drawn on demand; see `embedded_text`."""

    def __init__(self, split: Split, num_pictures: int, size: int, seed: int) -> None:
        self.split = split
        self.size = size
        self.seed = seed
        self._num_pictures = num_pictures
        self._keeps = 3 * num_pictures * size**2 <= _MOST_KEPT
        self._kept: dict[int, Picture] = {}

    def __len__(self) -> int:
        return self._num_pictures

    def __getitem__(self, index: int) -> Picture:
        """Draw picture number `index`.

        Args:
            index: 0 to the length less one.

        Returns:
            The picture, the same at every call.

        Raises:
            IndexError: out of range.
        """
        if not 0 <= index < self._num_pictures:
            raise IndexError(f"picture {index} of {self._num_pictures}")
        if index in self._kept:
            return self._kept[index]
        picture = self._draw(index)
        if self._keeps:
            self._kept[index] = picture
        return picture

    def _draw(self, index: int) -> Picture:
        entropy = (self.seed, list(PHOTOGRAPHS).index(self.split), index)
        generator = np.random.default_rng(np.random.SeedSequence(entropy))
        image = _background(generator, self.split, self.size)
        words = HELD_OUT_WORDS if self.split == "held_out" else TRAIN_WORDS
        image, annotation = _set_words(generator, image, words)
        return Picture(f"{self.split}_{index:04d}", image, annotation)


def embedded_text(split: Split = "train", *, num_pictures: int = 400, size: int = 256, seed: int = 0) -> EmbeddedText:
    """Return the embedded data set: words along straight lines, arcs and waves on real photographs.

    Args:
        split: "train" or "held_out"; they share neither photographs nor words.
        num_pictures: how many.
        size: height and width, pixels.
        seed: of everything random in it.

    Returns:
        The data set; its polygons are exact, top edge forward, then bottom edge back. About one word in
        fifteen is hardly legible and marked as ignored.

    Raises:
        ValueError: an unknown split, or a size too small to set words on.
        ImportError: a package whose photographs it needs is not installed.
    """
    if split not in PHOTOGRAPHS:
        raise ValueError(f"no split {split!r} in the embedded data set; there are: {', '.join(PHOTOGRAPHS)}.")
    if size < 64 or num_pictures < 1:
        raise ValueError(
            f"size {size}, num_pictures {num_pictures}: needs a size of at least 64 and a picture or more."
        )
    for package, distribution in _PACKAGES.items():
        if find_spec(package) is None:
            raise ImportError(f"the embedded pictures need {distribution}. Install with: pip install headwise[data]")
    return EmbeddedText(split, num_pictures, size, seed)


@lru_cache(maxsize=32)
def _photograph(name: str) -> Pixels:
    package, _, inside = name.partition("/")
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return load_picture(Path(spec.submodule_search_locations[0]) / inside)


def _background(generator: np.random.Generator, split: Split, size: int) -> Pixels:
    """Cut a random square, between a third and all of the shorter side of a photograph, perhaps mirrored."""
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


def _set_words(generator: np.random.Generator, image: Pixels, words: tuple[str, ...]) -> tuple[Pixels, TextAnnotation]:
    """Set two to five words where they overlap neither each other nor the border."""
    size = len(image)
    taken = np.zeros((size, size), np.uint8)
    placed: list[tuple[Polygon, bool, str]] = []
    for _ in range(int(generator.integers(2, 6))):
        illegible = bool(generator.random() < 1 / 15)
        height = int(size * (0.05 if illegible else generator.uniform(0.08, 0.17)))
        word = draw_word(generator, words[int(generator.integers(len(words)))], max(height, 8))
        curve = _free_place(generator, word, taken)
        if curve is not None:
            contrast = generator.uniform(14, 24) if illegible else generator.uniform(55, 200)
            print_word(generator, image, word, curve, contrast)
            placed.append((curve.outline(word.width, word.height), illegible, word.text))
    if generator.random() < 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), generator.uniform(0.4, 0.8)), dtype=np.uint8)
    polygons, ignored, texts = zip(*placed, strict=True) if placed else ((), (), ())
    return image, TextAnnotation(polygons, ignored, texts)


def _free_place(generator: np.random.Generator, word: FlatWord, taken: NDArray[np.uint8]) -> Curve | None:
    """Try random curves until one is free, and claim it."""
    for _ in range(_ATTEMPTS):
        x, y = generator.uniform(0, len(taken), 2)
        curve = random_curve(generator, word.width, word.height, (float(x), float(y)))
        if claim(taken, curve.outline(word.width, word.height)):
            return curve
    return None
