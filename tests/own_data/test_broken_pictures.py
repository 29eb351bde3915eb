"""A picture that is broken, or of another size than annotated, is found before training and not in its middle."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.own_data import kit


def check_option(recipe):
    """The words that ask for a check of all pictures; none where it is made anyway."""
    text = kit.help_of("train", recipe)
    own = kit.option(text, "--check-pictures", "--check-data", "--check-images", "--check")
    if own is not None:
        return [own]
    return ["--set", "check_pictures=true"] if "check_pictures" in text else []


def found_first(result, run, name):
    """Check that the picture is named and that nothing was trained."""
    assert not result.crashed, result.said
    assert "step 1/" not in result.out, "found in mid-training"
    assert result.refused, result.said or "not found at all"
    assert name in result.err
    assert not list((run / "checkpoints").glob("*")) if run.is_dir() else True


def data_with(tmp_path, spoil, split):
    """24 pictures a split, of which number 17 is spoilt."""
    data = kit.coco(tmp_path / "data", number=24, size=(96, 80))
    spoil(data / split / "p17.jpg")
    return data


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resize(path):
    Image.fromarray(kit.pixels(path)[:50, :60]).save(path)


@pytest.mark.parametrize("split", ["train2017", "val2017"])
@pytest.mark.parametrize("spoil", [truncate, resize])
@pytest.mark.parametrize("recipe", ["ssd", "cornernet"])
def test_boxes(tmp_path, recipe, spoil, split):
    data = data_with(tmp_path, spoil, split)
    result = kit.train(recipe, data, tmp_path / "run", *check_option(recipe), steps=2)
    found_first(result, tmp_path / "run", "p17.jpg")


def test_several_are_counted(tmp_path):
    data = kit.coco(tmp_path / "data", number=24, size=(96, 80))
    for index in (11, 17, 20):
        resize(data / "val2017" / f"p{index}.jpg")
    result = kit.train("ssd", data, tmp_path / "run", *check_option("ssd"))
    found_first(result, tmp_path / "run", "p11.jpg")
    told = result.err.replace(str(tmp_path), "")
    assert "p20.jpg" in told or " 2 more" in told or " 3 " in told, told


@pytest.mark.parametrize("recipe", ["weighted_unet", "textsnake"])
def test_instances_and_words(tmp_path, recipe):
    """A control: these readers decode every picture first."""
    if recipe == "weighted_unet":
        data = kit.instances(tmp_path / "data")
        path = data / "held_out/pictures/i2.png"
    else:
        data = kit.total_text(tmp_path / "data")
        path = data / "Images/Test/img2.jpg"
    truncate(path)
    result = kit.train(recipe, data, tmp_path / "run", *check_option(recipe))
    found_first(result, tmp_path / "run", path.name)


def test_whole_pictures(tmp_path):
    """A control."""
    data = kit.coco(tmp_path / "data", number=24, size=(96, 80))
    result = kit.train("ssd", data, tmp_path / "run", *check_option("ssd"))
    assert result.code == 0, result.said
    assert json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])["step"] == 1
