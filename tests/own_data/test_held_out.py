"""What is called held out never is the training data: refused, read right, or said aloud."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.own_data import kit

PAGE_CLAIM = "Not trained on"


def separate_or_said(result, run, training_pictures):
    """Check that the run was refused, or evaluated on other pictures than these, or said that the two are the same."""
    assert not result.crashed, result.said
    if result.code != 0:
        assert result.refused, result.said
        assert re.search(r"held.?out|valid|split|same", result.err), result.err
        return
    trained = [kit.pixels(path) for path in training_pictures]
    seen = kit.held_out_images(run)
    same = sum(any(a.shape == b.shape and np.array_equal(a, b) for b in trained) for a in seen)
    told = [line for line in result.warning_lines if re.search(r"held.?out|valid|same|both splits", line)]
    assert same == 0 or told, f"{same} of {len(seen)} held-out pictures are training pictures, and nothing says so"


@pytest.mark.parametrize("recipe", ["ssd", "cornernet"])
def test_one_file_for_two_splits(tmp_path, recipe):
    data = kit.split_folders(tmp_path / "export")
    result = kit.train(recipe, data / "train" / "_annotations.coco.json", tmp_path / "run")
    separate_or_said(result, tmp_path / "run", (data / "train").glob("*.jpg"))


def test_one_file_where_all_pictures_lie_in_one_folder(tmp_path):
    data = kit.coco(tmp_path / "data", ("train", "val"), names="p{:02d}.png")
    (data / "images").mkdir()
    for split in ("train", "val"):
        file = data / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        for image in content["images"]:
            old, image["file_name"] = image["file_name"], f"{split}_{image['file_name']}"
            (data / split / old).rename(data / "images" / image["file_name"])
        file.write_text(json.dumps(content))
        (data / split).rmdir()
    result = kit.train("retinanet", data / "annotations" / "instances_train.json", tmp_path / "run")
    separate_or_said(result, tmp_path / "run", (data / "images").glob("train_*.png"))


def test_boxes_of_one_split_are_never_put_on_pictures_of_the_other(tmp_path):
    """Both folders hold p00.jpg and so on: two cameras that count from 0."""
    data = kit.coco(tmp_path / "data")
    result = kit.train("ssd", data / "annotations" / "instances_train2017.json", tmp_path / "run")
    if result.code != 0:
        assert result.refused, result.said
        return
    content = {
        split: json.loads((data / f"annotations/instances_{split}.json").read_text())
        for split in ("train2017", "val2017")
    }
    for path in sorted((tmp_path / "run" / "samples").glob("*.npz")):
        sample = np.load(path, allow_pickle=False)
        corners = {tuple(map(int, p)) for p in sample["annotated_points"]}
        for split, told in content.items():
            for image in told["images"]:
                if np.array_equal(kit.pixels(data / split / image["file_name"]), sample["image"]):
                    own = {
                        tuple(map(int, one["bbox"][:2]))
                        for one in told["annotations"]
                        if one["image_id"] == image["id"]
                    }
                    assert own <= corners, f"{split}/{image['file_name']} has the boxes of another picture"


def test_two_lists_of_the_same_pictures(tmp_path):
    """Both JSON files list the pictures of images/, the same ones."""
    data = kit.coco(tmp_path / "data", ("train2017",))
    (data / "train2017").rename(data / "images")
    told = (data / "annotations/instances_train2017.json").read_text()
    (data / "annotations/instances_val2017.json").write_text(told)
    result = kit.train("ssd", data, tmp_path / "run")
    separate_or_said(result, tmp_path / "run", (data / "images").glob("*.jpg"))


@pytest.mark.slow
def test_the_page_does_not_call_training_pictures_untrained(tmp_path):
    data = kit.split_folders(tmp_path / "export")
    if kit.train("ssd", data / "train" / "_annotations.coco.json", tmp_path / "run").code != 0:
        return
    trained = [kit.pixels(path) for path in (data / "train").glob("*.jpg")]
    if any(np.array_equal(a, b) for a in kit.held_out_images(tmp_path / "run") for b in trained):
        assert kit.headwise("report", "--no-png", tmp_path / "run").code == 0
        assert PAGE_CLAIM not in (tmp_path / "run/report/index.html").read_text()


def test_two_proper_splits_are_used_as_they_are(runs):
    """A control."""
    data = runs.data("ssd")
    seen = kit.held_out_images(runs["ssd"])
    expected = [kit.pixels(path) for path in sorted((data / "val2017").glob("*.jpg"))]
    assert len(seen) == len(expected)
    assert all(any(np.array_equal(a, b) for b in expected) for a in seen)
