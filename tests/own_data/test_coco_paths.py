"""`file_name` as the tools write it: relative to the data's root, with backslashes, composed or decomposed."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest

from headwise.data import read_coco
from tests.own_data import kit


def renamed(how):
    def change(content, split):
        for image in content["images"]:
            image["file_name"] = how(split, image["file_name"])

    return change


def all_read(data, files):
    pictures = read_coco(data, "train2017")
    assert len(pictures) == len(files)
    for index, path in enumerate(files):
        assert np.array_equal(pictures[index].image, kit.pixels(path))


@pytest.mark.parametrize(
    "how",
    [
        lambda split, name: f"{split}/{name}",
        lambda split, name: f"./{split}/{name}",
        lambda split, name: f"{split}\\{name}",
    ],
    ids=["train2017/a.jpg", "./train2017/a.jpg", "train2017\\a.jpg"],
)
def test_relative_to_the_root(tmp_path, how):
    data = kit.coco(tmp_path / "data", change=renamed(how))
    all_read(data, sorted((data / "train2017").iterdir()))


@pytest.mark.parametrize("mark", ["/", "\\"])
def test_relative_to_the_root_through_images(tmp_path, mark):
    data = kit.coco(tmp_path / "data", change=renamed(lambda split, name: mark.join(("images", split, name))))
    (data / "images").mkdir()
    (data / "train2017").rename(data / "images" / "train2017")
    all_read(data, sorted((data / "images" / "train2017").iterdir()))


@pytest.mark.parametrize("mark", ["/", "\\"])
def test_relative_to_the_root_of_one_folder(tmp_path, mark):
    data = kit.coco(tmp_path / "data", ("train2017",), change=renamed(lambda split, name: f"images{mark}{name}"))
    (data / "train2017").rename(data / "images")
    all_read(data, sorted((data / "images").iterdir()))


def test_accents_of_another_system(tmp_path):
    """The JSON has the letter and its accent apart, the file's name has them in one; read, or the cause is told."""
    apart = renamed(lambda split, name: unicodedata.normalize("NFD", name))
    data = kit.coco(tmp_path / "data", change=apart, names=unicodedata.normalize("NFC", "p\u00e9{:02d}.jpg"))
    pictures, error = kit.attempt(lambda: read_coco(data, "train2017"))
    if pictures is None:
        assert re.search("unicode|accent|normal|compose", error.replace(str(tmp_path), ""), re.IGNORECASE), error
        return
    all_read(data, sorted((data / "train2017").iterdir()))


def test_only_the_first_picture_is_missing(tmp_path):
    """The others say which folder is meant, so that the one is named and not seven folders."""
    data = kit.coco(tmp_path / "data")
    (data / "train2017" / "p00.jpg").unlink()
    pictures, text = kit.attempt(lambda: read_coco(data, "train2017"))
    assert pictures is None
    assert str(data / "train2017" / "p00.jpg") in text
    assert text.count(str(data)) <= 3


@pytest.mark.parametrize("form", ["{name}", "../{split}/{name}", "{root}/{split}/{name}"])
def test_paths_that_work_still_do(tmp_path, form):
    """A control: names alone, ones that lead up and down again, and absolute ones."""
    data = tmp_path / "data"
    kit.coco(data, change=renamed(lambda split, name: form.format(root=data, split=split, name=name)))
    all_read(data, sorted((data / "train2017").iterdir()))


def test_a_name_that_holds_a_backslash(tmp_path):
    """A control: where such a file is there, it is the one that is meant."""
    data = kit.coco(tmp_path / "data", names="a\\p{:02d}.jpg")
    all_read(data, sorted((data / "train2017").iterdir()))
