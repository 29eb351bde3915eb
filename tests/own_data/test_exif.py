"""Cameras store a picture and how to turn it; annotations are made on what is displayed, and so is what is found."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image, ImageOps

from headwise.data import load_picture, read_coco, read_instances, read_total_text
from tests.own_data import kit

pytestmark = pytest.mark.filterwarnings("ignore:.*EXIF")
ALL = range(1, 9)
OBLONG, SQUARE = (160, 100), (120, 120)


@pytest.mark.parametrize("orientation", ALL)
def test_a_picture_is_loaded_as_displayed(tmp_path, orientation):
    box, size = kit.turned(tmp_path / "a.jpg", orientation)
    image = load_picture(tmp_path / "a.jpg")
    assert (image.shape[1], image.shape[0]) == size
    assert min(kit.white_inside(image, box)) > 0.9


def one_box(root, orientation, size, told):
    """A COCO folder of one picture: displayed size in the JSON, none, or the raw one with the raw box."""
    (root / "train").mkdir(parents=True)
    box, shown = kit.turned(root / "train" / "a.jpg", orientation, size)
    if told == "raw":
        box, shown = (20, 10, 60, 30), size
    image = {"id": 1, "file_name": "a.jpg"} | ({} if told == "nothing" else {"width": shown[0], "height": shown[1]})
    bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox}
    content = {"images": [image], "categories": [{"id": 1, "name": "o"}], "annotations": [annotation]}
    (root / "train.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("told", ["displayed", "nothing"])
@pytest.mark.parametrize("size", [OBLONG, SQUARE], ids=["oblong", "square"])
@pytest.mark.parametrize("orientation", ALL)
def test_boxes_lie_on_what_was_annotated(tmp_path, orientation, size, told):
    picture = read_coco(one_box(tmp_path / "data", orientation, size, told), "train")[0]
    assert min(kit.white_inside(picture.image, picture.annotation.boxes[0])) > 0.9


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_size_in_the_json_decides(tmp_path, orientation):
    """Written by a tool that saw the raw picture: read as it was meant, or refused with the word EXIF. A control."""
    data = one_box(tmp_path / "data", orientation, OBLONG, "raw")
    picture, error = kit.attempt(lambda: read_coco(data, "train")[0])
    if picture is None:
        assert re.search("exif", error, re.IGNORECASE)
        return
    assert min(kit.white_inside(picture.image, picture.annotation.boxes[0])) > 0.9


@pytest.mark.parametrize("size", [OBLONG, SQUARE], ids=["oblong", "square"])
@pytest.mark.parametrize("orientation", ALL)
def test_instance_masks_lie_on_what_was_annotated(tmp_path, orientation, size):
    for name in ("pictures", "labels"):
        (tmp_path / name).mkdir()
    (x1, y1, x2, y2), shown = kit.turned(tmp_path / "pictures" / "a.jpg", orientation, size)
    label = np.zeros((shown[1], shown[0]), np.uint8)
    label[y1:y2, x1:x2] = 1
    Image.fromarray(label).save(tmp_path / "labels" / "a.png")
    picture = read_instances(tmp_path)[0]
    assert picture.image.shape[:2] == picture.annotation.label.shape
    assert (picture.image[..., 0] > 128)[picture.annotation.label == 1].mean() > 0.9


@pytest.mark.parametrize("orientation", ALL)
def test_words_lie_on_what_was_annotated(tmp_path, orientation):
    pictures, truth = tmp_path / "Images/Train", tmp_path / "Groundtruth/Polygon/Train"
    pictures.mkdir(parents=True)
    truth.mkdir(parents=True)
    (x1, y1, x2, y2), _ = kit.turned(pictures / "a.jpg", orientation)
    (truth / "poly_gt_a.txt").write_text(kit.word_line([x1, x2, x2, x1], [y1, y1, y2, y2]))
    picture = read_total_text(tmp_path, "Train")[0]
    polygon = np.asarray(picture.annotation.polygons[0])
    assert min(kit.white_inside(picture.image, (*polygon.min(0), *polygon.max(0)))) > 0.9


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("recipe", ["ssd", "weighted_unet", "textsnake"])
def test_predict_finds_what_it_finds_on_the_displayed_picture(tmp_path, runs, recipe, orientation):
    """The same pixels twice: to be turned by the reader, and turned already."""
    source = {
        "ssd": "val2017/p00.jpg",
        "weighted_unet": "held_out/pictures/i0.png",
        "textsnake": "Images/Test/img0.jpg",
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = {}
    for name in ("stored", "displayed"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "a.png"
        if name == "stored":
            Image.fromarray(kit.pixels(runs.data(recipe) / source[recipe])).save(path, exif=exif)
        else:
            with Image.open(tmp_path / "stored" / "a.png") as stored:
                Image.fromarray(np.array(ImageOps.exif_transpose(stored).convert("RGB"))).save(path)
        result = kit.headwise("predict", runs[recipe], path, "--out", tmp_path / f"of_{name}")
        assert result.code == 0, result.said
        found[name] = (
            json.loads((tmp_path / f"of_{name}/a.json").read_text()),
            kit.pixels(tmp_path / f"of_{name}/a.png"),
        )
    assert found["stored"][1].shape == found["displayed"][1].shape
    assert found["stored"][0] == found["displayed"][0]
    assert np.array_equal(found["stored"][1], found["displayed"][1])
