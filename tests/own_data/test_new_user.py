"""From a folder of one's own to a page, by the commands of docs/your-own-data.md, for every recipe."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headwise.recipes import RECIPES
from headwise.training.step import training_step
from tests.own_data import kit

SOME = ("textsnake", "retinanet", "weighted_unet")
"""In `make test`, one of each kind of data; `make recipes` takes all nine."""

SMALL = {
    "boxes": ["image_size=64", "min_side=10", "max_side=30"],
    "instances": ["crop_size=48", "width=4"],
    "text": ["crop_size=64", "inference_size=64", "width=8"],
}
SAVED_AS = ("P", "LA", "CMYK", "L")


def kind_of(recipe: str) -> str:
    return "boxes" if recipe in kit.BOXES else "instances" if recipe in kit.INSTANCES else "text"


def strange_data(recipe: str, folder: Path) -> tuple[Path, list[Path]]:
    """A data set with a space and an accent in its place, and pictures of four kinds; and those that are held out."""
    kind = kind_of(recipe)
    if kind == "boxes":
        data = kit.coco(folder / "meine Dåten", number=4, size=(96, 80), names="stråße {:02d} (1).jpg")
        pictures = data / "train2017", data / "val2017"
    elif kind == "instances":
        data = kit.instances(folder / "meine Dåten", number=4, size=(96, 80))
        pictures = data / "train/pictures", data / "held_out/pictures"
    else:
        data = kit.total_text(folder / "meine Dåten", number=4)
        pictures = data / "Images/Train", data / "Images/Test"
    for mode, path in zip(SAVED_AS, sorted(pictures[0].iterdir()), strict=True):
        with Image.open(path) as picture:
            form = "JPEG" if mode in ("CMYK", "L") and path.suffix == ".jpg" else "PNG"
            changed = picture.convert("L" if form == "PNG" and mode == "CMYK" else mode)
        changed.save(path, format=form)
    return data, sorted(pictures[1].iterdir())


def interrupt_in_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Press Ctrl-C in the middle of a step."""
    calls = [0]

    def pressed(*arguments: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] == number:
            signal.raise_signal(signal.SIGINT)
        training_step(*arguments, **options)

    monkeypatch.setattr("headwise.training.trained.training_step", pressed)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES if os.environ.get("HEADWISE_RECIPES") == "all" else SOME)
def test_train_interrupt_move_resume_predict_and_report(recipe, tmp_path, monkeypatch):
    data, held_out = strange_data(recipe, tmp_path)
    run, small = tmp_path / "a run", [word for each in SMALL[kind_of(recipe)] for word in ("--set", each)]
    with monkeypatch.context() as pressing:
        interrupt_in_step(pressing, 2)
        stopped = kit.headwise(
            "train", recipe, "--data", data, "--size", "tiny", "--steps", 3, "--batch-size", 2, "--workers", 0,
            "--set", "log_every=1", *small, "--out", run,
        )  # fmt: skip
    assert stopped.code == 130, stopped.said
    assert "--resume" in stopped.out
    moved, new_data = run.rename(tmp_path / "moved"), data.rename(tmp_path / "elsewhere")
    resumed = kit.headwise("train", recipe, "--out", moved, "--resume", "--data", new_data)
    assert resumed.code == 0, resumed.said
    assert [json.loads(line)["step"] for line in (moved / "log.jsonl").read_text().splitlines()] == [1, 2, 3]
    scores = json.loads((moved / "evaluation.jsonl").read_text().splitlines()[-1])
    assert (scores["step"], scores["num_images"]) == (3, 4)

    pictures = [new_data / path.relative_to(data) for path in held_out]
    known = ["--annotations", new_data / "annotations/instances_val2017.json"] if recipe in kit.BOXES else []
    found = kit.headwise("predict", moved, pictures[0].parent, "--out", tmp_path / "found", "--batch-size", 3, *known)
    assert found.code == 0, found.said
    written = {path.name for path in (tmp_path / "found").iterdir()}
    assert {f"{path.stem}{ending}" for path in pictures for ending in (".json", ".png")} <= written
    assert ("coco_results.json" in written) == (recipe in kit.BOXES)

    reported = kit.headwise("report", moved)
    assert reported.code == 0, reported.said
    page = (moved / "report/index.html").read_text()
    assert all(path.stem in page for path in pictures), "a picture without the name of its file"
    for result in (stopped, resumed, found, reported):
        assert not result.crashed
        assert not result.warning_lines, result.warning_lines
