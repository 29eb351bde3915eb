"""What `headwise predict` writes is scored against a data set by the usual tools."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest

from tests.own_data import kit

faster_coco_eval = pytest.importorskip("faster_coco_eval")
NAMES = ("--annotations", "--coco", "--data", "--ground-truth", "--ids")


def results_of(runs, recipe, out, pictures):
    """Predict, saying which annotation file the pictures are of if the command takes one; return its COCO results."""
    truth = runs.data(recipe) / "annotations/instances_val2017.json"
    named = kit.option(kit.help_of("predict"), *NAMES)
    result = kit.headwise("predict", runs[recipe], *pictures, "--out", out, *([named, truth] if named else []))
    assert result.code == 0, result.said
    lists = [path for path in sorted(out.rglob("*.json")) if isinstance(json.loads(path.read_text()), list)]
    assert lists, "no file of results: COCO's tools read a list with image_id, category_id, bbox and score"
    return truth, lists


def loaded(truth, path):
    with contextlib.redirect_stdout(io.StringIO()):
        known = faster_coco_eval.COCO(str(truth))
        return known, known.loadRes(str(path))


@pytest.mark.parametrize("recipe", ["ssd", "centernet"])
def test_results_are_loaded_and_scored(tmp_path, runs, recipe):
    pictures = sorted((runs.data(recipe) / "val2017").glob("*.jpg"))
    truth, lists = results_of(runs, recipe, tmp_path / "out", pictures)
    known, found = loaded(truth, lists[0])
    assert len(found.anns) > 0
    scoring = faster_coco_eval.COCOeval_faster(known, found, "bbox")
    with contextlib.redirect_stdout(io.StringIO()):
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    assert np.isfinite(scoring.stats[0])


def test_each_detection_is_of_the_picture_with_its_file_name(tmp_path, runs):
    """Some pictures only, and in another order than the data set's."""
    pictures = [runs.data("ssd") / "val2017" / f"p{index:02d}.jpg" for index in (4, 1, 3)]
    truth, lists = results_of(runs, "ssd", tmp_path / "out", pictures)
    numbers = {image["file_name"]: image["id"] for image in json.loads(truth.read_text())["images"]}
    entries = json.loads(lists[0].read_text())
    for picture in pictures:
        alone = json.loads((tmp_path / "out" / f"{picture.stem}.json").read_text())["annotations"]
        own = [entry for entry in entries if entry["image_id"] == numbers[picture.name]]
        assert sorted(one["score"] for one in own) == pytest.approx(sorted(one["score"] for one in alone), abs=1e-6)
    assert {entry["image_id"] for entry in entries} <= {numbers[picture.name] for picture in pictures}
    assert {entry["category_id"] for entry in entries} <= {1, 7}


def test_the_writer_of_detections_is_read(tmp_path, runs):
    """A control: the library's own writer."""
    from headwise.data import write_detections

    found = {"boxes": np.array([[1.0, 2, 30, 40]]), "scores": np.array([0.5]), "labels": np.array([1])}
    write_detections(tmp_path / "found.json", [found], image_ids=[12], category_ids=[1, 7])
    _, results = loaded(runs.data("ssd") / "annotations/instances_val2017.json", tmp_path / "found.json")
    (only,) = results.anns.values()
    assert (only["image_id"], only["category_id"]) == (12, 7)


@pytest.mark.parametrize("given", ["split", "sizes", "alone"])
def test_the_annotation_file_of_other_pictures_of_the_same_names(tmp_path, runs, given):
    """Files of two splits are often called alike; a result with the number of another picture is worse than none."""
    data = runs.data("ssd")
    pictures = sorted((data / "train2017").glob("*.jpg"))
    truth = data / "annotations/instances_val2017.json"
    content = json.loads(truth.read_text())
    if given != "split":
        truth = tmp_path / "instances_val2017.json"
        for image in content["images"] if given == "sizes" else ():
            image["width"] += 1
        truth.write_text(json.dumps(content))
    result = kit.headwise("predict", runs["ssd"], *pictures, "--annotations", truth, "--out", tmp_path / "out")
    assert str(truth) in result.said
    if given == "alone":  # nobody can know
        assert result.code == 0
        assert "by file name alone" in result.said
    else:
        assert result.code == 2
        assert not (tmp_path / "out").exists()
        assert {"split": "shows something else", "sizes": "other sizes"}[given] in result.said


def test_copies_of_the_annotated_pictures_are_known(tmp_path, runs):
    from PIL import Image

    data = runs.data("ssd")
    for picture in (data / "val2017").glob("*.jpg"):
        Image.open(picture).save(tmp_path / picture.name, quality=30)
    copies = sorted(tmp_path.glob("*.jpg"))
    truth = data / "annotations/instances_val2017.json"
    result = kit.headwise("predict", runs["ssd"], *copies, "--annotations", truth, "--out", tmp_path / "out")
    assert (result.code, "warning" in result.said) == (0, False), result.said
