"""Several mistakes of one kind are told at once: the first, and how many more there are."""

from __future__ import annotations

import re

import numpy as np
import pytest

from headwise.data import read_coco, read_instances, read_total_text
from tests.own_data import kit

MANY = 40


def read_or_counted(read, root, *counts):
    """Return what was read, or None where the error gives the first entry and one of these counts."""
    result, error = kit.attempt(read)
    if result is None:
        text = re.sub(rf"\S*{re.escape(str(root))}\S*", "FILE", error)
        found = {int(number) for number in re.findall(r"\b\d+\b", text.replace(",", ""))}
        assert found & set(counts), f"only one of {max(counts)} is told: {text}"
    return result


def in_annotations(change):
    def spoil(content, split):
        content["annotations"] = content["annotations"][:MANY]
        for one in content["annotations"]:
            change(one)

    return spoil


def area_null(one):
    one["area"] = None


def category_missing(one):
    one["category_id"] = 3


def box_of_three(one):
    one["bbox"] = one["bbox"][:3]


def negative_width(one):
    one["bbox"][2] = -one["bbox"][2]


@pytest.mark.parametrize(
    "change", [area_null, category_missing, box_of_three, negative_width], ids=lambda f: f.__name__
)
def test_annotations(tmp_path, change):
    data = kit.coco(tmp_path / "data", number=14, change=in_annotations(change))
    read_or_counted(lambda: read_coco(data, "train2017"), tmp_path, MANY, MANY - 1)


def test_numbers_written_as_text(tmp_path):
    """Read, or told with a count and with what is wrong: "10" is there, but as a number."""

    def texts(one):
        one["image_id"] = str(one["image_id"])

    data = kit.coco(tmp_path / "data", number=14, change=in_annotations(texts))
    pictures, error = kit.attempt(lambda: read_coco(data, "train2017"))
    if pictures is None:
        assert re.search("whole number|integer|as text|string", error), error
        read_or_counted(lambda: read_coco(data, "train2017"), tmp_path, MANY, MANY - 1)
    else:
        assert sum(len(pictures.annotation(index).boxes) for index in range(14)) == MANY


def test_whole_numbers_written_with_a_point(tmp_path):
    """As table programs write them: read, or told with a count."""

    def floats(content, split):
        for image in content["images"]:
            image["width"], image["height"] = float(image["width"]), float(image["height"])
        for one in content["annotations"]:
            one["category_id"], one["image_id"] = float(one["category_id"]), float(one["image_id"])

    data = kit.coco(tmp_path / "data", number=14, change=floats)
    pictures = read_or_counted(lambda: read_coco(data, "train2017"), tmp_path, 14, 13, 42, 41)
    if pictures is not None:
        plain = read_coco(kit.coco(tmp_path / "plain", number=14), "train2017")
        for index in range(14):
            assert np.array_equal(pictures.annotation(index).boxes, plain.annotation(index).boxes)
            assert np.array_equal(pictures.annotation(index).labels, plain.annotation(index).labels)


def test_pictures_that_are_not_there(tmp_path):
    data = kit.coco(tmp_path / "data", number=30)
    for index in range(5, 28):
        (data / "train2017" / f"p{index:02d}.jpg").unlink()
    read_or_counted(lambda: read_coco(data, "train2017"), tmp_path, 23, 22)


def test_annotation_files_of_words(tmp_path):
    data = kit.total_text(tmp_path / "data", number=25)
    for index in range(23):
        (data / f"Groundtruth/Polygon/Train/poly_gt_img{index}.txt").write_text("10,10,50,10,50,30,10,30,word\n")
    read_or_counted(lambda: read_total_text(data, "Train"), tmp_path, 23, 22)


def test_labels_that_are_not_there(tmp_path):
    data = kit.instances(tmp_path / "data", number=25, size=(60, 60))
    for index in range(23):
        (data / f"train/labels/i{index}.png").unlink()
    read_or_counted(lambda: read_instances(data, "train"), tmp_path, 23, 22)


def test_a_single_mistake_names_its_entry(tmp_path):
    """A control."""

    def spoil(content, split):
        content["annotations"][7]["bbox"][2] = -5

    with pytest.raises(ValueError, match=r"annotation 8\b"):
        read_coco(kit.coco(tmp_path / "data", change=spoil), "train2017")
