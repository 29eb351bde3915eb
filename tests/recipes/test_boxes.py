"""Every detector of boxes from pictures to a report, in two steps."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from headwise.data import embedded_digits, write_coco
from headwise.recipes import RECIPES
from headwise.recipes.boxes.anchors import show_anchors
from headwise.recipes.boxes.corners import CornerCollate
from headwise.recipes.prediction import load_network, predict
from headwise.report import write_report
from headwise.training.folder.checkpoints import list_checkpoints

STEPS = 2
SMALL: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": 2,
    "image_size": 63,
    "picture_size": 63,
    "min_side": 20,
    "max_side": 40,
    "num_pictures": 4,
    "num_held_out": 3,
    "log_every": 1,
    "checkpoint_every": 2,
}
OWN: dict[str, dict[str, Any]] = {
    "cornernet": {},
    "cornernet_squeeze": {},
    "cornernet_saccade": {
        "picture_size": 127,
        "num_stacks": 1,
        "max_crops": 2,
        "first_sizes": (63,),
        "crop_ranges": ((14.0, 30.0), (28.0, 60.0)),
    },
    "centernet": {},
    "retinanet": {"image_size": 64},
    "ssd": {"image_size": 64},
}
HEADS = {
    "cornernet": 6,
    "cornernet_squeeze": 6,
    "cornernet_saccade": 7,
    "centernet": 8,
    "retinanet": 2,
    "ssd": 2,
}


@pytest.fixture(scope="module", params=list(OWN))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    name: str = request.param
    folder = tmp_path_factory.mktemp("runs") / name
    outcome = RECIPES[name](out=folder, size="tiny", **{**SMALL, **OWN[name]})
    assert outcome.steps == STEPS
    return folder


def test_a_run_keeps_its_books(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert len(line["terms"]) == HEADS[run.name]
        assert sum(term["weighted"] for term in line["terms"].values()) == pytest.approx(line["total"], rel=1e-5)
        assert all(term["finite"] for term in line["terms"].values())
    heat = [term for name, term in lines[0]["terms"].items() if "heatmap" in name or name == "classification"]
    assert all(term["grad_norm"] > 0 for term in heat)


def test_a_run_is_scored_and_saves_samples(run):
    scores = json.loads((run / "evaluation.jsonl").read_text().splitlines()[-1])
    assert scores["num_images"] == 3
    assert set(scores["per_class"]) == set("0123456789")
    sample = np.load(run / "samples" / "000.npz")
    assert len(sample["annotated_labels"]) > 0
    assert len(sample["map_titles"]) >= 2
    assert np.isfinite(sample["map_0_values"].astype(np.float32)).all()


def test_predictions_are_a_coco_file(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    [path] = predict(run, [tmp_path / "one.png"], tmp_path / "out")
    content = json.loads(path.read_text())
    assert content["images"] == [{"id": 1, "file_name": "one.png", "width": 90, "height": 50}]
    assert [category["name"] for category in content["categories"]] == list("0123456789")
    for found in content["annotations"]:
        x, y, width, height = found["bbox"]
        assert 0 <= x <= x + width <= 90 + 1e-3
        assert 0 <= y <= y + height <= 50 + 1e-3
        assert found["category_id"] in range(1, 11)
    scores = [found["score"] for found in content["annotations"]]
    assert scores == sorted(scores, reverse=True)
    with Image.open(tmp_path / "out" / "one.png") as overlay:
        assert overlay.size == (90, 50)


def test_a_report_is_written(run):
    if run.name in ("centernet", "ssd"):  # drawing takes seconds; these two have every kind of panel
        assert write_report(run, png=False).stat().st_size > 10_000


def test_a_checkpoint_gives_the_same_network_again(run):
    network, recipe, configuration = load_network(list_checkpoints(run / "checkpoints")[0])
    assert recipe.name == run.name
    assert len(configuration.class_names) == 10  # type: ignore[attr-defined]
    side = configuration.image_size  # type: ignore[attr-defined]
    images = torch.zeros(1, 3, side, side)
    with torch.no_grad():
        first, second = network(images), load_network(run)[0](images)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_training_on_a_coco_folder(tmp_path):
    """Classes and their numbers come from the file."""
    splits: tuple[tuple[Literal["train", "held_out"], str], ...] = (("train", "train2017"), ("held_out", "val2017"))
    for ours, split in splits:
        number = {"train": 16, "held_out": 3}[ours]  # enough to train on each class that is held out
        digits = embedded_digits(ours, num_pictures=number, size=63, min_side=20, max_side=40)
        write_coco(tmp_path / "coco", digits, split)
    out = tmp_path / "run"
    RECIPES["cornernet_squeeze"](tmp_path / "coco", out=out, size="tiny", **SMALL)
    arguments = json.loads((out / "config.json").read_text())["arguments"]
    assert arguments["class_names"] == list("0123456789")
    assert json.loads((out / "evaluation.jsonl").read_text())["num_images"] == 3


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A COCO folder whose held-out file lists the digits from 0, its training file from 1."""
    digits = embedded_digits("train", num_pictures=2, size=63, min_side=20, max_side=40)
    for split in ("train2017", "val2017"):
        write_coco(tmp_path, digits, split)
    file = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    for entry in content["categories"]:
        entry["id"] -= 1
    for entry in content["annotations"]:
        entry["category_id"] -= 1
    file.write_text(json.dumps(content))
    return tmp_path


def test_splits_of_other_categories_are_refused(coco, tmp_path):
    """A label would mean one class in training and another in the scores."""
    with pytest.raises(ValueError, match=r"split 'train2017' has 10 categories.*they differ in 0 '0', 1 '0', 1 '1'"):
        RECIPES["ssd"](coco, out=tmp_path / "run", size="tiny", **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ssd", "retinanet"])
@pytest.mark.parametrize("side", [31, 63, 95, 97])
def test_a_map_for_every_level_of_pictures_of_any_size(name, side):
    """Where a cell's middle is no number of a few bits, boxes of several shapes give it by different roundings."""
    recipe: Any = RECIPES[name]
    configuration = recipe.complete(replace(recipe.sizes["tiny"], image_size=side, num_held_out=1))
    picture = embedded_digits("held_out", num_pictures=1, size=96, min_side=22, max_side=60)[0]
    network = recipe.make_network(configuration, False).eval()
    with torch.no_grad():
        maps = show_anchors(network, configuration, picture).maps
    levels = network.anchors((side, side))
    assert [np.asarray(each.values).size for each in maps] == [_cells(level) for level in levels]


def _cells(anchors: torch.Tensor) -> int:
    centers = ((anchors[:, :2] + anchors[:, 2:]) / 2).round()
    return len(torch.unique(centers, dim=0))


def test_a_configuration_comes_back_from_json():
    recipe = RECIPES["cornernet_saccade"]
    for size in ("tiny", "full"):
        configuration = recipe.configure(size, {})
        stored = json.loads(json.dumps(asdict(configuration), allow_nan=False))
        assert recipe.read_configuration(stored, "here") == configuration
        assert isinstance(hash(configuration), int)


def test_the_ablations_change_the_targets_and_the_weight_alone():
    configure = RECIPES["cornernet"].configure
    plain = configure("tiny", {"gaussian": False, "class_names": ("a",)})
    picture = embedded_digits("train", num_pictures=1, size=127)[0]
    one = picture.annotation.select(np.array([0]))
    boxes = type(one)(one.boxes, np.zeros(1, np.int64), one.ignored)
    targets = CornerCollate(plain, False).encode([boxes], 127)
    assert float(targets["top_left_heatmap"].sum()) == 1.0
    criterion = RECIPES["cornernet"].make_criterion(configure("tiny", {"push_weight": 0.0}))
    assert criterion.terms[[term.name for term in criterion.terms].index("push")].weight == 0.0


@pytest.mark.parametrize("name", list(OWN))
def test_the_full_configurations_build_the_published_networks(name):
    """On no device, without data: the arguments fit the networks and the presets."""
    recipe = RECIPES[name]
    configuration = recipe.configure("full", {"class_names": tuple(map(str, range(80)))})
    with torch.device("meta"):
        network = recipe.make_network(configuration, False)
    counts = {
        "cornernet": 201_035_212,
        "cornernet_squeeze": 31_771_852,
        "cornernet_saccade": 116_969_339,
        "centernet": 210_062_960,
    }
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == counts.get(name, count)
    assert count > 10_000_000
    assert len(recipe.make_criterion(configuration).names) == HEADS[name]
