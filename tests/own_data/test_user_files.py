"""What a user has in a folder is neither deleted nor replaced: refused, or written elsewhere."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.own_data import kit

OWN = {
    "samples/photo_notes.txt": b"mine",
    "samples/000.npz": b"mine, not a run's",
    "tensorboard/events.out.tfevents.other": b"another run's",
    "log.jsonl": b'{"mine": 1}\n',
    "evaluation.jsonl": b'{"mine": 2}\n',
    "config.json": b'{"editor": "mine"}\n',
    "lock": b"mine\n",
}


@pytest.mark.parametrize("name", OWN)
def test_train_leaves_what_is_in_the_folder(tmp_path, runs, name):
    path = tmp_path / "project" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(OWN[name])
    result = kit.train("ssd", runs.data("ssd"), tmp_path / "project")
    assert path.is_file(), f"{name} was deleted"
    assert path.read_bytes() == OWN[name], f"{name} was replaced"
    assert result.code == 0 or result.refused, result.said


@pytest.mark.parametrize("resume", [["--resume"], []], ids=["resume", "anew"])
@pytest.mark.parametrize("recipe", ["ssd", "weighted_unet"])
def test_a_finished_run_without_checkpoints_keeps_its_log(tmp_path, runs, recipe, resume):
    """Checkpoints were removed to save space; the log, the scores and the samples are the result."""
    run = runs.copy(recipe, tmp_path / "run")
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    before = kit.snapshot(run)
    result = kit.train(recipe, runs.data(recipe), run, *resume)
    kept = set(kit.snapshot(tmp_path).values())
    lost = [name for name, content in before.items() if name != "config.json" and content not in kept]
    assert not lost, f"{', '.join(lost)} deleted or replaced"
    assert result.code == 0 or result.refused, result.said


def a_picture(runs, recipe, path, which=0):
    folder, names = {"ssd": ("val2017", "p{:02d}.jpg"), "weighted_unet": ("held_out/pictures", "i{}.png")}[recipe]
    Image.fromarray(kit.pixels(runs.data(recipe) / folder / names.format(which))).save(path)
    return path


@pytest.mark.parametrize("recipe", ["ssd", "weighted_unet"])
@pytest.mark.parametrize("out", [".", "here", "absolute"])
def test_predict_never_replaces_its_input(tmp_path, runs, recipe, out, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here if out == "." else tmp_path)
    picture = a_picture(runs, recipe, here / "a.png")
    before = picture.read_bytes()
    given = {".": "a.png", "here": "here/a.png", "absolute": picture}[out]
    result = kit.headwise("predict", runs[recipe], given, "--out", {"absolute": here}.get(out, out))
    assert picture.read_bytes() == before, "the picture was replaced by its overlay"
    assert result.code == 0 or result.refused, result.said


def test_predict_never_replaces_the_annotation_beside_its_input(tmp_path, runs):
    picture = a_picture(runs, "ssd", tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text('{"shapes": []}')
    result = kit.headwise("predict", runs["ssd"], picture, "--out", tmp_path)
    assert (tmp_path / "a.json").read_text() == '{"shapes": []}'
    assert result.code == 0 or result.refused, result.said


def test_one_input_is_never_replaced_by_the_result_of_another(tmp_path, runs):
    """a.jpg is found first; its overlay would be a.png, which is the next picture's file."""
    (tmp_path / "in").mkdir()
    first, second = a_picture(runs, "ssd", tmp_path / "in/a.jpg"), a_picture(runs, "ssd", tmp_path / "in/b.png", 1)
    (tmp_path / "in" / "a.png").write_bytes(second.read_bytes())
    before = kit.snapshot(tmp_path / "in")
    result = kit.headwise("predict", runs["ssd"], first, second, "--out", tmp_path / "in")
    assert {name: (tmp_path / "in" / name).read_bytes() for name in before} == before
    assert result.code == 0 or result.refused, result.said


def mode_of(path):
    with Image.open(path) as picture:
        return picture.mode


def test_results_never_replace_one_another(tmp_path, runs):
    """The label map of a.png is called like the overlay of a_label.png."""
    (tmp_path / "in").mkdir()
    pictures = [
        a_picture(runs, "weighted_unet", tmp_path / "in" / name, k) for k, name in enumerate(("a.png", "a_label.png"))
    ]
    result = kit.headwise("predict", runs["weighted_unet"], *pictures, "--out", tmp_path / "out")
    if result.code != 0:
        assert result.refused, result.said
        return
    modes = [mode_of(path) for path in (tmp_path / "out").rglob("*.png")]
    assert sum(mode == "RGB" for mode in modes) == 2, modes
    assert sum(mode.startswith("I") for mode in modes) == 2, modes


def test_a_place_at_home_is_meant_behind_an_equals_sign_too(tmp_path, runs, monkeypatch):
    """No shell expands it there; a folder called ~ would be made, which is dangerous to remove."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    a_picture(runs, "ssd", tmp_path / "home/a.png")
    assert kit.headwise("predict", runs["ssd"], "~/a.png", "--out=~/found").code == 0
    assert (tmp_path / "home/found/a.json").is_file()
    assert kit.train("ssd", runs.data("ssd"), "~/run").code == 0
    assert (tmp_path / "home/run/config.json").is_file()
    assert "~who is it" in kit.headwise("check", "~who is it/data", "--recipe", "ssd").err
    assert not (tmp_path / "~").exists()


def test_predict_into_a_new_folder(tmp_path, runs):
    """A control."""
    (tmp_path / "in").mkdir()
    picture = a_picture(runs, "ssd", tmp_path / "in/a.png")
    before = picture.read_bytes()
    assert kit.headwise("predict", runs["ssd"], picture, "--out", tmp_path / "out").code == 0
    assert picture.read_bytes() == before
    assert json.loads((tmp_path / "out/a.json").read_text())["images"][0]["file_name"] == "a.png"
    assert kit.pixels(tmp_path / "out/a.png").shape == kit.pixels(picture).shape


def test_a_run_that_has_begun_is_not_begun_again(tmp_path, runs):
    """A control."""
    run = runs.copy("ssd", tmp_path / "run")
    before = kit.snapshot(run)
    assert kit.train("ssd", runs.data("ssd"), run).refused
    assert kit.snapshot(run) == before
