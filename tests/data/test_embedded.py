import time

import numpy as np
import pytest
import torch

from headwise.data.annotation import Picture, TextAnnotation
from headwise.data.embedded.curves import random_curve
from headwise.data.embedded.photographs import PHOTOGRAPHS
from headwise.data.embedded.printing import claim, print_word
from headwise.data.embedded.text import embedded_text
from headwise.data.embedded.words import HELD_OUT_WORDS, TRAIN_WORDS, draw_word


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    data = embedded_text("train", num_pictures=60)
    return [data[index] for index in range(40)]


def test_splits_share_neither_photographs_nor_words():
    assert not set(PHOTOGRAPHS["train"]) & set(PHOTOGRAPHS["held_out"])
    assert not {word.lower() for word in TRAIN_WORDS} & {word.lower() for word in HELD_OUT_WORDS}


def test_a_picture_is_a_function_of_seed_split_and_index(pictures):
    np.random.seed(5)  # noqa: NPY002  the global state must not matter
    torch.manual_seed(5)
    again = embedded_text("train", num_pictures=41)[7]
    assert np.array_equal(again.image, pictures[7].image)
    assert all(
        np.array_equal(one, other)
        for one, other in zip(again.annotation.polygons, pictures[7].annotation.polygons, strict=True)
    )
    assert not np.array_equal(again.image, embedded_text("train", seed=1)[7].image)
    assert not np.array_equal(again.image, embedded_text("held_out")[7].image)


def test_pictures_are_varied_and_words_lie_inside(pictures):
    words = [word for picture in pictures for word in picture.annotation.words]
    lengths = {len(polygon) for picture in pictures for polygon in picture.annotation.polygons}
    ignored = sum(sum(picture.annotation.ignored) for picture in pictures)
    assert len(words) > 80
    assert len({word.lower() for word in words}) > 40
    assert lengths == {4, 14}
    assert 0 < ignored < len(words) / 5
    for picture in pictures:
        assert picture.image.shape == (256, 256, 3)
        assert all(polygon.min() >= 0 and polygon.max() <= 255 for polygon in picture.annotation.polygons)


def test_all_of_the_ink_lies_within_the_outline():
    import cv2

    for seed in range(30):
        generator = np.random.default_rng(seed)
        image = np.full((200, 200, 3), 128, np.uint8)
        word = draw_word(generator, "Quarterly", 30)
        curve = random_curve(generator, word.width, word.height, (100.0, 100.0))
        print_word(generator, image, word, curve, 100)
        inside = np.zeros((200, 200), np.uint8)
        cv2.fillPoly(inside, [curve.outline(word.width, word.height).round().astype(np.int32)], 1)
        changed = (image != 128).any(axis=-1)
        assert changed.sum() > 300
        assert (changed & (inside == 0)).sum() <= 0.01 * changed.sum(), (seed, curve)


def test_a_place_is_given_once():
    taken = np.zeros((50, 50), np.uint8)
    square = np.array([[10.0, 10.0], [20.0, 10.0], [20.0, 20.0], [10.0, 20.0]])
    assert claim(taken, square)
    assert not claim(taken, square + 5)
    assert claim(taken, square + 16)
    assert not claim(taken, square + 35), "it would leave the picture"


def test_drawing_is_fast_enough_for_training(pictures):
    data = embedded_text("train")
    start = time.perf_counter()
    for index in range(100, 110):
        data[index]
    assert (time.perf_counter() - start) / 10 < 0.1


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="no split 'test'"):
        embedded_text("test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size of at least 64"):
        embedded_text(size=8)
    with pytest.raises(IndexError):
        embedded_text(num_pictures=3)[3]


def test_a_picture_may_be_without_words():
    assert len(TextAnnotation((), (), ())) == 0
