"""Words set along curves on photographs that ship inside scikit-image, scikit-learn and matplotlib.

Nothing is downloaded and nothing is stored: picture number i is drawn from (seed, split, i), the same on
every machine with the same package versions. The splits share no photograph and no word.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from headwise.data.annotation import Picture, Polygon, TextAnnotation
from headwise.data.embedded.curves import Curve, random_curve
from headwise.data.embedded.drawn import DrawnPictures
from headwise.data.embedded.photographs import PHOTOGRAPHS, Pixels, Split, background, check_split
from headwise.data.embedded.printing import claim, print_word
from headwise.data.embedded.words import HELD_OUT_WORDS, TRAIN_WORDS, FlatWord, draw_word
from headwise.whole import check_whole

_ATTEMPTS = 20


class EmbeddedText:
    """Annotated pictures drawn on demand; see `embedded_text`."""

    def __init__(self, split: Split, num_pictures: int, size: int, seed: int) -> None:
        self.split = split
        self.size = size
        self.seed = seed
        self._pictures = DrawnPictures(self._draw, num_pictures, size)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Picture:
        """Draw picture number `index`.

        Args:
            index: 0 to the length less one; an IndexError beyond.

        Returns:
            The picture, the same at every call.
        """
        return self._pictures[index]

    def _draw(self, index: int) -> Picture:
        entropy = (self.seed, list(PHOTOGRAPHS).index(self.split), index)
        generator = np.random.default_rng(np.random.SeedSequence(entropy))
        image = background(generator, self.split, self.size)
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
    """
    check_split(split)
    check_whole("embedded_text", num_pictures=num_pictures, size=size)
    check_whole("embedded_text", 0, seed=seed)
    if size < 64:
        raise ValueError(
            f"size {size}, num_pictures {num_pictures}: needs a size of at least 64 and a picture or more."
        )
    return EmbeddedText(split, num_pictures, size, seed)


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
