"""What `headwise check` says of two splits together, of what it reads of each, and of files that nobody meant."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from headwise.data import load_picture
from tests.own_data import kit


def checked(data, recipe, tmp_path):
    return kit.headwise("check", data, "--recipe", recipe, "--out", tmp_path / "drawn", "--pictures", 0)


def renamed(content, split):
    if split.startswith("val"):
        content["categories"][1]["name"] = "disk"


def exchanged(content, split):
    if split.startswith("val"):
        one, other = content["categories"]
        one["name"], other["name"] = other["name"], one["name"]


@pytest.mark.parametrize("change", [renamed, exchanged])
def test_categories_that_differ_are_told_as_training_refuses_them(tmp_path, change):
    data = kit.coco(tmp_path / "data", change=change)
    result = checked(data, "ssd", tmp_path)
    assert result.code == 2, result.said
    assert "7 'disc'" in result.out
    assert kit.train("ssd", data, tmp_path / "run").refused


def test_a_class_that_training_never_shows(tmp_path):
    def change(content, split):
        if split.startswith("train"):
            content["annotations"] = [each for each in content["annotations"] if each["category_id"] == 1]

    data = kit.coco(tmp_path / "data", change=change)
    result = checked(data, "ssd", tmp_path)
    assert result.code == 1, result.said
    assert "none of: disc" in result.out
    assert "no training picture shows one, so that they are never found: 'disc'" in result.out
    assert any("never found: 'disc'" in each for each in kit.train("ssd", data, tmp_path / "run").warned)


def test_objects_are_counted_by_class(tmp_path):
    def change(content, split):
        content["categories"].append({"id": 9, "name": "never"})
        content["annotations"][0]["iscrowd"] = 1
        for each in content["annotations"]:
            each["image_id"] = content["images"][0]["id"]

    result = checked(kit.coco(tmp_path / "data", change=change), "ssd", tmp_path)
    assert result.code == 0, result.said
    train = result.out.splitlines()[0]
    assert ", 17 objects: " in train
    assert train.endswith("none of: never; 5 pictures without")


def test_what_reading_leaves_out_is_to_be_looked_at(tmp_path):
    def change(content, split):
        content["annotations"][0]["bbox"][2] = 0

    result = checked(kit.coco(tmp_path / "data", change=change), "ssd", tmp_path)
    assert result.code == 1, result.said
    assert sum("left out: 1." in line for line in result.warning_lines) == 2


def test_files_that_a_system_puts_beside_the_users_are_nobodys_data(tmp_path):
    """macOS writes `._NAME` beside every file of a foreign disk, and into its archives."""
    maps, words, boxes = kit.instances(tmp_path / "a"), kit.total_text(tmp_path / "b"), kit.coco(tmp_path / "c")
    single = kit.split_folders(tmp_path / "d")
    for data in (maps, words, boxes, single):
        for file in [path for path in data.rglob("*") if path.is_file()]:
            file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
    for recipe, data in (("weighted_unet", maps), ("textsnake", words), ("ssd", boxes), ("ssd", single)):
        result = checked(data, recipe, tmp_path)
        assert result.code == 0, result.said


@pytest.mark.parametrize("ending", ["tif", "gif", "png", "webp"])
def test_a_stack_or_an_animation_is_no_picture(tmp_path, ending):
    draw = np.random.default_rng(0)
    first, second = (Image.fromarray(draw.integers(0, 256, (40, 50, 3), np.uint8)) for _ in range(2))
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=[second])
    with pytest.raises(ValueError, match=rf"a\.{ending}: a stack or an animation of 2 pictures"):
        load_picture(tmp_path / f"a.{ending}")


def test_a_picture_with_its_thumbnail_and_a_cameras_two_are_one(tmp_path):
    draw = np.random.default_rng(0)
    large = Image.fromarray(draw.integers(0, 256, (40, 50, 3), np.uint8))
    large.save(tmp_path / "a.tif", save_all=True, append_images=[large.resize((25, 20))])
    assert (load_picture(tmp_path / "a.tif") == np.array(large)).all()
    large.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[large])
    assert load_picture(tmp_path / "a.jpg").shape == (40, 50, 3)


def test_a_stack_among_pictures_and_among_labels_is_told_with_the_others(tmp_path):
    data = kit.instances(tmp_path / "data", splits=("train", "held_out"))
    picture, label = data / "train/pictures/i0.png", data / "train/labels/i1.png"
    for path in (picture, label):
        page = Image.open(path)
        page.load()
        page.save(path, save_all=True, append_images=[page.transpose(Image.Transpose.ROTATE_180)])
    result = checked(data, "weighted_unet", tmp_path)
    assert result.code == 2
    assert result.out.count("a stack or an animation of 2 pictures") == 2
