"""What one's own data need can be said on the command: by an option of its own, or by ``--set FIELD=VALUE``."""

from __future__ import annotations

import json
import re
import urllib.error
from typing import Any

import numpy as np
import pytest

from tests.own_data import kit

WAYS = {
    "train_split": ("--train-split", "--train"),
    "held_out_split": ("--held-out-split", "--held-out", "--val-split", "--val"),
    "batch_size": ("--batch-size", "--batch"),
    "learning_rate": ("--learning-rate", "--lr"),
    "image_size": ("--image-size", "--imgsz"),
    "crop_size": ("--crop-size", "--image-size"),
    "num_workers": ("--num-workers", "--workers"),
    "device": ("--device",),
    "weights": ("--weights",),
}


def say(recipe, field, value):
    """The words that set a field, or None where the command has no way."""
    text = kit.help_of("train", recipe)
    own = kit.option(text, *WAYS[field])
    if own is not None:
        return [own, value]
    return ["--set", f"{field}={value}"] if kit.option(text, "--set") else None


CASES = [
    ("ssd", "batch_size", 3),
    ("ssd", "learning_rate", 0.0005),
    ("ssd", "image_size", 128),
    ("ssd", "num_workers", 1),
    ("weighted_unet", "batch_size", 2),
    ("weighted_unet", "crop_size", 64),
    ("textsnake", "learning_rate", 0.0005),
]


@pytest.mark.parametrize(("recipe", "field", "value"), CASES)
def test_a_number_is_set(tmp_path, runs, recipe, field, value):
    words = say(recipe, field, value)
    assert words is not None, f"no way to set {field}"
    result = kit.train(recipe, runs.data(recipe), tmp_path / "run", *words)
    assert result.code == 0, result.said
    assert json.loads((tmp_path / "run/config.json").read_text())["arguments"][field] == value


def test_the_device_is_set(tmp_path, runs):
    words = say("ssd", "device", "cpu")
    assert words is not None, "no way to set the device"
    assert kit.train("ssd", runs.data("ssd"), tmp_path / "run", *words).code == 0


def test_splits_are_named(tmp_path):
    data = kit.coco(tmp_path / "data", ("mine_a", "mine_b"))
    words = [say("ssd", "train_split", "mine_a"), say("ssd", "held_out_split", "mine_b")]
    assert None not in words, "no way to name the splits"
    result = kit.train("ssd", data, tmp_path / "run", *words[0], *words[1])
    assert result.code == 0, result.said
    expected = [kit.pixels(path) for path in (data / "mine_b").glob("*.jpg")]
    assert all(any(np.array_equal(a, b) for b in expected) for a in kit.held_out_images(tmp_path / "run"))


@pytest.mark.parametrize("splits", [("train", "valid"), ("train", "val"), ("train", "test")], ids="/".join)
def test_usual_folders_are_found_or_the_option_is_told(tmp_path, splits):
    data = kit.split_folders(tmp_path / "export", splits)
    result = kit.train("ssd", data, tmp_path / "run")
    if result.code != 0:
        assert result.refused, result.said
        told = set(re.findall(r"--[a-z][a-z-]+", result.err)) - {"--data"}
        listed = kit.help_of("train", "ssd")
        assert any(kit.option(listed, name) for name in told), f"no remedy on the command: {result.err}"
        return
    expected = [kit.pixels(path) for path in (data / splits[1]).glob("*.jpg")]
    assert all(any(np.array_equal(a, b) for b in expected) for a in kit.held_out_images(tmp_path / "run"))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No weights in the cache, and no network."""

    def fail(url, *_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)


@pytest.mark.parametrize("recipe", ["retinanet", "ssd", "textsnake"])
def test_weights_that_cannot_be_fetched_are_named_with_a_remedy_that_works(tmp_path, runs, offline, recipe):
    """The file and where to put it, or an option; not only the network's error."""
    result = kit.headwise("train", recipe, "--data", runs.data(recipe), "--steps", 1, "--out", tmp_path / "run")
    assert result.refused, result.said
    assert "weights" in result.err
    told = re.findall(r"--[a-z][a-z-]+", result.err)
    listed = kit.help_of("train", recipe)
    assert any(kit.option(listed, name) for name in told) or re.search(r"\.pth?\b", result.err), result.err


@pytest.mark.slow
def test_random_weights_are_chosen_on_the_command(tmp_path, runs, offline):
    small = [
        say("textsnake", name, value) for name, value in (("batch_size", 1), ("crop_size", 64), ("num_workers", 0))
    ]
    assert None not in small, "no way to make the full network's run small"
    start = ["train", "textsnake", "--data", runs.data("textsnake"), "--size", "full", "--steps", 1]
    for value in ("none", "None", "null", "random"):
        words = say("textsnake", "weights", value)
        assert words is not None, "no way to choose the weights"
        sizes = ["--set", "inference_size=64", *(word for pair in small for word in pair)]
        result = kit.headwise(*start, *sizes, *words, "--out", tmp_path / value)
        if result.code == 0:
            return
    pytest.fail(f"none of four spellings of 'no weights' is understood: {result.err}")


@pytest.mark.slow
def test_random_weights_are_chosen_in_python(tmp_path, runs, offline):
    """The remedy that the message names, ``weights=None``, has to work."""
    from headwise.recipes import RECIPES

    small: dict[str, Any] = {"batch_size": 1, "crop_size": 64, "inference_size": 64, "num_workers": 0}
    outcome = RECIPES["textsnake"](
        runs.data("textsnake"), out=tmp_path / "run", steps=1, size="full", weights=None, **small
    )
    assert outcome.steps == 1


@pytest.mark.parametrize(
    "names",
    [("--device",), ("--score", "--threshold", "--score-threshold", "--conf", "--min-score")],
    ids=["device", "score"],
)
def test_predict_has_the_option_too(names):
    text = kit.help_of("predict")
    assert kit.option(text, *names, "--set"), f"none of {', '.join(names)}"


def test_the_options_there_are_still_work(tmp_path, runs):
    """A control."""
    result = kit.train("ssd", runs.data("ssd"), tmp_path / "run", "--seed", 3, "--micro-batches", 2)
    assert result.code == 0, result.said
    arguments = json.loads((tmp_path / "run/config.json").read_text())["arguments"]
    assert (arguments["seed"], arguments["micro_batches"]) == (3, 2)


@pytest.mark.parametrize("again", ["same", "other"])
def test_a_run_is_started_like_another_one(tmp_path, runs, again):
    """By its config.json, which holds the place of its data and what these told."""

    def ring(content, split):
        content["categories"][1]["name"] = "ring"

    words = ["train", "ssd", "--config", runs["ssd"] / "config.json", "--out", tmp_path / "run"]
    if again == "other":
        words += ["--data", kit.coco(tmp_path / "data", number=5, change=ring)]
    result = kit.headwise(*words)
    assert result.code == 0, result.said
    before, after = (
        json.loads((run / "config.json").read_text())["arguments"] for run in (runs["ssd"], tmp_path / "run")
    )
    differing = {"data", "class_names", "num_images"} if again == "other" else set()
    assert {name for name in before if before[name] != after[name]} == differing
    assert after["class_names"] == (["square", "ring"] if again == "other" else ["square", "disc"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'\xef\xbb\xbf{"seed": 3}'),
        ("a.json", '{"seed": 3}'.encode("utf-16")),
        ("a.yaml", "seed: 3\n".encode("utf-16")),
    ],
)
def test_fields_from_a_file_in_the_encodings_of_editors(tmp_path, runs, name, content):
    (tmp_path / name).write_bytes(content)
    result = kit.train("ssd", runs.data("ssd"), tmp_path / "run", "--config", tmp_path / name)
    assert result.code == 0, result.said
    assert json.loads((tmp_path / "run/config.json").read_text())["seed"] == 3


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_a_file_of_fields_that_is_none_is_named(tmp_path, runs, name):
    (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0 a picture, not fields")
    result = kit.train("ssd", runs.data("ssd"), tmp_path / "run", "--config", tmp_path / name)
    assert result.refused, result.said
    assert str(tmp_path / name) in result.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "data=elsewhere"], "data: given twice"),
        (["--set", "class_names=a,b"], "class_names: the data tell it"),
        (["--train", "gone/train.json"], "gone/train.json: no such file or folder"),
    ],
)
def test_what_cannot_be_set_is_told(tmp_path, runs, words, said):
    result = kit.train("ssd", runs.data("ssd"), tmp_path / "run", *words)
    assert result.refused, result.said
    assert said in result.err
