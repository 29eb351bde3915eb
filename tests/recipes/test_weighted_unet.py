import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from headwise.data import embedded_instances
from headwise.recipes.pixels.parts import collate, make_data
from headwise.recipes.pixels.weighted_unet import weighted_unet
from headwise.recipes.run import PictureFile
from headwise.training.folder.checkpoints import list_checkpoints, load_checkpoint
from headwise.training.ranks import ALONE
from tests.recipes.pixel_runs import SMALL, STEPS, lines


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "weighted_unet"
    return folder, weighted_unet(out=folder, size="tiny", **SMALL)


def test_a_run_leaves_everything(run):
    folder, outcome = run
    assert outcome.steps == STEPS
    assert set(outcome.scores) == {"instances", "pixels", "touching", "num_images"}
    assert outcome.scores["touching"]["pairs"] > 0
    for entry in lines(folder):
        assert entry["terms"]["segmentation"]["share"] == 1
        assert entry["terms"]["segmentation"]["outputs"]["logits"]["grad_norm"] > 0
    assert json.loads((folder / "config.json").read_text())["terms"] == ["segmentation"]
    with np.load(folder / "samples" / "000.npz") as sample:
        assert sample["instances_annotated"].max() > 1
        assert sample["instances_found"].shape == (64, 64)


def test_the_seed_decides(run, tmp_path):
    weighted_unet(out=tmp_path / "again", size="tiny", **SMALL)
    assert lines(tmp_path / "again") == lines(run[0])
    weighted_unet(out=tmp_path / "other", size="tiny", seed=1, **SMALL)
    assert lines(tmp_path / "other") != lines(run[0])


def test_a_run_is_resumed_to_the_bit(run, tmp_path):
    weighted_unet(out=tmp_path, size="tiny", **SMALL)
    list_checkpoints(tmp_path / "checkpoints")[0].unlink()
    with pytest.raises(ValueError, match=r"started with size 'tiny', not 'full'. Leave it out"):
        weighted_unet(out=tmp_path, size="full", resume=True)
    weighted_unet(out=tmp_path, size="tiny", resume=True)
    assert lines(tmp_path) == lines(run[0])
    again, first = (load_checkpoint(list_checkpoints(folder / "checkpoints")[0]) for folder in (tmp_path, run[0]))
    assert all(torch.equal(again["network"][name], value) for name, value in first["network"].items())


def test_without_padding_targets_are_the_middle_of_the_crop():
    configuration = weighted_unet.configure("full", {**SMALL, "crop_size": 20})
    assert configuration.padding == "valid"
    network = weighted_unet.make_network(configuration, True)
    batch = next(iter(make_data(configuration).batches(0, 1, 1, ALONE)))
    outputs = network(batch.images)
    shape = outputs["logits"].shape[-2:]
    assert min(shape) >= 20
    assert batch.targets["label"].shape[-2:] == batch.targets["weight_map"].shape[-2:] == shape
    weighted_unet.make_criterion(configuration)(outputs, batch.targets).total.backward()
    label = torch.arange(100).reshape(10, 10)
    cut = collate([(torch.zeros(3, 10, 10), label)], margin=3, encode={"gap": 0, "w0": 0.0})
    assert cut.targets["label"].shape == (1, 4, 4)


def test_border_weights_reach_the_targets():
    drawn = {}
    for w0 in (0.0, 10.0):
        configuration = weighted_unet.configure("tiny", {**SMALL, "w0": w0, "crop_size": 64})
        drawn[w0] = next(iter(make_data(configuration).batches(0, 1, 1, ALONE))).targets
    assert torch.equal(drawn[0.0]["label"], drawn[10.0]["label"])
    more = drawn[10.0]["weight_map"] - drawn[0.0]["weight_map"]
    assert more.max() > 5
    assert (more[drawn[0.0]["label"] == 1] == 0).all()


def test_a_folder_of_pictures_is_trained_on(tmp_path):
    for split in ("train", "held_out"):
        data = embedded_instances(split, num_pictures=2, size=64)
        for inside in ("pictures", "labels"):
            (tmp_path / split / inside).mkdir(parents=True)
        for index in range(2):
            picture = data[index]
            Image.fromarray(picture.image).save(tmp_path / split / "pictures" / f"{picture.name}.png")
            label = picture.annotation.label.astype(np.uint16)
            Image.fromarray(label).save(tmp_path / split / "labels" / f"{picture.name}.png")
    outcome = weighted_unet(tmp_path, out=tmp_path / "run", size="tiny", **{**SMALL, "steps": 1})
    assert outcome.scores["num_images"] == 2
    (tmp_path / "held_out" / "pictures").rename(tmp_path / "held_out" / "images")
    with pytest.raises(ValueError, match="the splits found are: 'train'"):
        weighted_unet(tmp_path, out=tmp_path / "bad", size="tiny", **SMALL)


def test_a_prediction_is_a_label_a_record_and_an_overlay(run, tmp_path):
    configuration = weighted_unet.configure("tiny", {**SMALL, "min_area": 1})
    network = weighted_unet.make_network(configuration, False)
    network.load_state_dict(load_checkpoint(list_checkpoints(run[0] / "checkpoints")[0])["network"])
    image = embedded_instances("held_out", num_pictures=1, size=70)[0].image[:61]
    [found] = weighted_unet.predict(network, configuration, [PictureFile(tmp_path / "coins.jpg", image)], None)
    label = Image.open(io.BytesIO(found.files["_label.png"]))
    assert (label.mode, label.size) == ("I;16", (70, 61))
    numbers = np.array(label)
    assert (found.record["image"], found.record["width"], found.record["height"]) == ("coins.jpg", 70, 61)
    assert [each["number"] for each in found.record["objects"]] == list(range(1, int(numbers.max()) + 1))
    for each in found.record["objects"]:
        x1, y1, x2, y2 = each["box"]
        assert each["area"] == (numbers == each["number"]).sum() == (numbers[y1:y2, x1:x2] == each["number"]).sum()
        assert 0.5 < each["score"] <= 1
    overlay = np.array(Image.open(io.BytesIO(found.files[".png"])))
    assert overlay.shape == (61, 70, 3)
    assert np.array_equal(overlay[numbers == 0], image[numbers == 0])
