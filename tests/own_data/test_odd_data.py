"""Data that cannot be meant are refused, or warned of with a count; good data are read without a word."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from tests.own_data import kit

SIZE = (160, 120)


def told_once(result, data, *words, counted=True):
    """Check that a command was refused, or warned, with a count, of what is odd."""
    assert not result.crashed, result.said
    lines = [result.err] if result.code else result.warning_lines
    assert result.code == 0 or result.refused, result.said
    plain = [re.sub(rf"\S*{re.escape(str(data.parent))}\S*", "FILE", line) for line in lines]
    told = sorted({line for line in plain if re.search("|".join(words), line, re.IGNORECASE)})
    assert told, "not a word about it"
    counts = {int(number) for line in told for number in re.findall(r"\b\d+\b", line)} - {0, 1, 255}
    assert counts or not counted, f"no count: {told[0]}"
    assert len(told) <= 4, f"{len(told)} warnings instead of one a split"


def normalized(content, split):
    for one in content["annotations"]:
        x, y, w, h = one["bbox"]
        one["bbox"] = [x / SIZE[0], y / SIZE[1], w / SIZE[0], h / SIZE[1]]
        one["area"] = one["bbox"][2] * one["bbox"][3]


def corners(content, split):
    for one in content["annotations"]:
        x, y, w, h = one["bbox"]
        one["bbox"] = [x, y, x + w, y + h]


def no_objects(content, split):
    if split == "train2017":
        content["annotations"] = []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (normalized, ("normali[sz]ed", "pixel", "share", r"0 ?(\.\.|to) ?1")),
        (corners, ("corner", "outside", "beyond", "reach", "border", "edge")),
        (no_objects, ("no object", "no box", "not one", "no annotation", "without object", "0 object")),
    ],
    ids=["boxes in 0..1", "corners for sizes", "no object at all"],
)
def test_boxes_that_cannot_be_meant(tmp_path, change, words):
    data = kit.coco(tmp_path / "data", change=change)
    told_once(kit.train("ssd", data, tmp_path / "run"), data, *words, counted=change is not no_objects)


def binary(high):
    return lambda label: ((label > 0) * high).astype(np.uint8)


def void(label):
    """A border of 255 around each object, which stands for neither."""
    result = label.astype(np.uint8)
    edge = (np.diff(label.astype(int), axis=0, prepend=0) != 0) | (np.diff(label.astype(int), axis=1, prepend=0) != 0)
    result[edge] = 255
    return result


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (binary(255), ("one object", "one number", "single", "binary", "mask", "255")),
        (binary(1), ("one object", "one number", "single", "binary", "mask", "parts")),
        (void, ("255", "void")),
    ],
    ids=["0 and 255", "0 and 1", "void 255"],
)
def test_masks_that_are_no_maps_of_objects(tmp_path, change, words):
    data = kit.instances(tmp_path / "data", change=change)
    told_once(kit.train("weighted_unet", data, tmp_path / "run"), data, *words)


@pytest.mark.parametrize("recipe", ["ssd", "weighted_unet", "textsnake"])
def test_good_data_are_read_without_a_word(tmp_path, runs, recipe):
    """A control."""
    result = kit.train(recipe, runs.data(recipe), tmp_path / "run")
    assert result.code == 0, result.said
    assert not [line for line in result.warning_lines if re.search("box|object|mask|label|corner|normal", line)]


def test_one_picture_without_objects_is_no_mistake(tmp_path):
    """A control: a picture of the background alone is good training data."""

    def empty_one(content, split):
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 10]

    data = kit.coco(tmp_path / "data", change=empty_one)
    result = kit.train("ssd", data, tmp_path / "run")
    assert result.code == 0
    assert not [line for line in result.warning_lines if re.search("box|object|annotation", line)]


def test_an_eighth_bit_is_no_void(tmp_path):
    """A control: 255 is an object like the 254 others."""
    label = np.arange(1, 256).repeat(3)[: 15 * 51].reshape(15, 51)[:, :51].astype(np.uint8)
    for name in ("pictures", "labels"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.stack([label] * 3, -1)).save(tmp_path / "pictures/a.png")
    Image.fromarray(label).save(tmp_path / "labels/a.png")
    from headwise.data import read_instances

    assert len(read_instances(tmp_path)[0].annotation.numbers) == 255
