import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headwise.cli import VERBS, main
from headwise.recipes import textsnake
from headwise.recipes.text.configuration import TINY, TextConfiguration
from headwise.training.folder.checkpoints import list_checkpoints, save_checkpoint

SMALL = replace(
    TINY,
    steps=2,
    width=8,
    crop_size=64,
    inference_size=64,
    picture_size=64,
    batch_size=2,
    num_pictures=4,
    num_held_out=2,
    num_workers=0,
    log_every=1,
    checkpoint_every=1,
)

Failing = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Failing:
    """Run a command that must fail by a user's mistake; return its one line."""

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()
        try:
            code: int | str | None = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code
        captured = capsys.readouterr()
        assert code == 2
        assert captured.err.startswith("headwise: error: ")
        assert captured.err.count("\n") == 1
        assert "Traceback" not in captured.err
        return captured.err

    return run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make --demo a matter of seconds."""
    monkeypatch.setitem(textsnake.sizes, "tiny", SMALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(textsnake.sizes, "tiny", SMALL)
        assert main(["train", "textsnake", "--demo", "--out", str(folder), "--seed", "3"]) == 0
    return folder


def test_the_verbs_are_these():
    assert {"train", "recipes", "predict", "audit", "report"} <= VERBS.keys()


def test_training_leaves_what_reports_read(run):
    config = json.loads((run / "config.json").read_text())
    assert config["seed"] == config["arguments"]["seed"] == 3
    assert config["terms"] == ["text_region", "center_line", "radius", "sin", "cos"]
    assert len(config["card"]) > 100
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step_00000002.pt", "step_00000001.pt"]
    sample = np.load(run / "samples" / "000.npz", allow_pickle=False)
    assert sample["image"].shape == (64, 64, 3)
    assert len(sample["map_titles"]) == 5
    assert sample["map_0_values"].shape == sample["map_0_target"].shape == (64, 64)
    assert sample["annotated_points"].shape == (sample["annotated_lengths"].sum(), 2)
    assert len(sample["found_scores"]) == len(sample["found_lengths"])
    evaluation = json.loads((run / "evaluation.jsonl").read_text().splitlines()[-1])
    assert evaluation["step"] == 2
    assert evaluation["num_images"] == 2
    assert evaluation["iou50"].keys() == evaluation["deteval"].keys() == {"precision", "recall", "f"}


def test_resume_goes_on_and_refuses_other_arguments(run, fails, small, capsys):
    assert main(["train", "textsnake", "--out", str(run), "--resume"]) == 0
    assert "continuing after step 2" in capsys.readouterr().out
    assert "seed 3, not 4" in fails("train", "textsnake", "--out", run, "--resume", "--seed", "4")
    assert "a run is there already" in fails("train", "textsnake", "--demo", "--out", run)


def test_predict_writes_polygons_and_overlays(run, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "one.jpg")
    checkpoint = list_checkpoints(run / "checkpoints")[0]
    for source, name in ((checkpoint, "from_file"), (run, "from_run")):
        assert main(["predict", str(source), str(tmp_path / "one.jpg"), "--out", str(tmp_path / name)]) == 0
    found = json.loads((tmp_path / "from_file" / "one.json").read_text())
    assert (found["image"], found["width"], found["height"]) == ("one.jpg", 90, 40)
    assert all(word.keys() == {"polygon", "score"} for word in found["words"])
    with Image.open(tmp_path / "from_file" / "one.png") as overlay:
        assert overlay.size == (90, 40)
    assert found == json.loads((tmp_path / "from_run" / "one.json").read_text())
    assert "one.json" in capsys.readouterr().out


def test_predict_goes_on_past_a_broken_picture_but_checks_names_before_it_writes(run, tmp_path, fails):
    out = tmp_path / "out"
    good = tmp_path / "good.png"
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(good)
    broken = tmp_path / "broken.jpg"
    Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(broken)
    broken.write_bytes(broken.read_bytes()[:300])
    assert f"{broken}: the picture cannot be decoded" in fails("predict", run, good, broken, "--out", tmp_path / "some")
    assert (tmp_path / "some" / "good.json").is_file()
    assert "absent.png: no such picture" in fails("predict", run, good, tmp_path / "absent.png", "--out", out)
    assert "two pictures are called" in fails("predict", run, good, good, "--out", out)
    assert not out.exists()


def test_predict_refuses_checkpoints_that_are_not_its_own(run, tmp_path, fails):
    good = tmp_path / "good.png"
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(good)
    other = save_checkpoint(tmp_path / "a", 1, {"recipe": "other", "arguments": {}, "network": {}})
    assert "recipe 'other' is not known" in fails("predict", other, good)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(list_checkpoints(run / "checkpoints")[0].read_bytes()[:1000])
    assert f"{cut}: truncated" in fails("predict", cut, good)
    assert "no such checkpoint" in fails("predict", tmp_path / "absent.pt", good)
    assert "no checkpoint in this folder" in fails("predict", tmp_path, good)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": None}, "recipe None is not known"),
        ({"arguments": None}, "no 'arguments'"),
        ({"network": {}}, "do not fit"),
    ],
)
def test_predict_refuses_checkpoints_that_lack_something(run, tmp_path, fails, change, words):
    state = torch.load(list_checkpoints(run / "checkpoints")[0], weights_only=True)
    broken = save_checkpoint(tmp_path, 1, {**state, **change})
    message = fails("predict", broken, tmp_path / "any.png")
    assert words in message
    assert str(broken) in message


def test_predict_refuses_a_checkpoint_of_another_format(run, tmp_path, fails, monkeypatch):
    state = torch.load(list_checkpoints(run / "checkpoints")[0], weights_only=True)
    monkeypatch.setattr("headwise.training.folder.checkpoints.VERSION", "x")
    newer = save_checkpoint(tmp_path, 1, state)
    monkeypatch.undo()
    message = fails("predict", newer, tmp_path / "any.png")
    assert "format x" in message
    assert str(newer) in message


def test_a_checkpoint_with_an_unknown_argument(run, tmp_path, fails):
    state = torch.load(list_checkpoints(run / "checkpoints")[0], weights_only=True)
    state["arguments"]["color"] = "blue"
    path = save_checkpoint(tmp_path, 1, state)
    assert f"{path}: no argument 'color'" in fails("predict", path, tmp_path / "any.png")


def test_a_configuration_with_an_unknown_key(run, tmp_path, fails):
    config = json.loads((run / "config.json").read_text())
    config["arguments"]["color"] = "blue"
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = fails("train", "textsnake", "--out", tmp_path, "--resume")
    assert f"{tmp_path / 'config.json'}: no argument 'color'" in message
    (tmp_path / "config.json").write_text("{")
    assert "no JSON" in fails("train", "textsnake", "--out", tmp_path, "--resume")
    with pytest.raises(ValueError, match="textsnake: no argument 'color'"):
        TextConfiguration.from_dict({"color": 1}, "textsnake")


def test_a_run_of_another_recipe(run, fails):
    assert f"{run}: a run of textsnake, not of ssd" in fails("train", "ssd", "--out", run, "--resume")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("twice.yaml", "batch_size: 2\nseed: 1\nbatch_size: 3\n"),
        ("twice.json", '{"arguments": {"batch_size": 2, "batch_size": 3}}'),
    ],
)
def test_a_field_that_a_file_gives_twice(tmp_path, fails, name, text):
    (tmp_path / name).write_text(text)
    message = fails("train", "textsnake", "--demo", "--config", tmp_path / name, "--out", tmp_path / "run")
    assert str(tmp_path / name) in message
    assert "batch_size: given twice" in message


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--freeze", "backbone", "--freeze", "head"], "--freeze: given twice, as backbone and head"),
        (["--data", "a", "--data=b"], "--data: given twice, as a and b"),
        (["--lr", "0.1", "--set", "learning_rate=0.2"], "learning_rate: given twice, as 0.1 and 0.2"),
        (["--set", "steps=3", "--set", "steps=4"], "steps: given twice, as 3 and 4"),
    ],
)
def test_an_option_that_is_given_twice(tmp_path, fails, words, named):
    """The last one would win, in silence: of what `--freeze` names, all but the last would be trained."""
    assert named in fails("train", "ssd", "--out", str(tmp_path / "run"), *words)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "ssd", "--data", ""],
        ["train", "ssd", "--out="],
        ["predict", "run", ""],
        ["predict", "", "a.png"],
        ["predict", "run", "a.png", "--out", ""],
        ["check", "data", "--recipe", "ssd", "--out="],
        ["report", ""],
    ],
)
def test_a_value_that_is_empty(words, fails):
    """As a shell has it of a variable that is not set: the folder one is in would be meant, or what a recipe ships."""
    assert "nothing is given" in fails(*words)


def test_words_of_a_script_may_be_empty(tmp_path):
    """A control: what a script is given is its own matter."""
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.argv[1:])")
    words = [sys.executable, "-m", "headwise", "run", "--out", tmp_path / "run", script, "--name", ""]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "['--name', '']" in done.stdout


def test_numbers_that_are_none_are_told_as_such(tmp_path, fails):
    for value in ("nan", "inf"):
        assert "given twice" not in fails("train", "ssd", "--lr", value, "--out", str(tmp_path / "run"))


def test_an_option_that_is_said_again(tmp_path, fails):
    """With the same value it is no mistake; the one here is the data's."""
    again = ["--seed", "3", "--seed", "3", "--set", "seed=3", "--data", str(tmp_path / "none")]
    assert "given twice" not in fails("train", "ssd", "--out", str(tmp_path / "run"), *again)


def test_missing_data(tmp_path, fails):
    out = tmp_path / "run"
    assert "nowhere: no such folder" in fails("train", "textsnake", "--data", tmp_path / "nowhere", "--out", out)
    assert not out.exists(), "nothing half-written"


def total_text(folder: Path) -> None:
    """Write a small Total-Text folder."""
    for seed, split in enumerate(("Train", "Test")):
        (folder / "Images" / split).mkdir(parents=True)
        (folder / "Groundtruth" / split).mkdir(parents=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "Images" / split / "img1.jpg")
        line = "x: [[10 70 70 10]], y: [[10 10 40 40]], ornt: [u'h'], transcriptions: [u'word']\n"
        (folder / "Groundtruth" / split / "gt_img1.txt").write_text(line)


def test_training_on_a_folder(tmp_path, small):
    total_text(tmp_path / "data")
    arguments = ["train", "textsnake", "--demo", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--steps", "1"]) == 0
    assert json.loads((tmp_path / "run" / "evaluation.jsonl").read_text())["num_images"] == 1


def test_bad_data_is_found_before_anything_is_written(tmp_path, fails):
    data, out = tmp_path / "data", tmp_path / "run"
    total_text(data)
    annotation = data / "Groundtruth" / "Train" / "gt_img1.txt"
    for line in (
        "x: [[1 2]], y: [[1 2]], transcriptions: [u'w']",
        "x: [[1 nan 3]], y: [[1 2 3]], transcriptions: [u'w']",
    ):
        annotation.write_text(line)
        assert str(annotation) in fails("train", "textsnake", "--data", data, "--out", out)
    picture = data / "Images" / "Train" / "img1.jpg"
    picture.write_bytes(picture.read_bytes()[:-200])
    assert str(picture) in fails("train", "textsnake", "--data", data, "--out", out)
    assert not out.exists()


def test_a_picture_that_breaks_during_training_is_named_in_one_line(tmp_path, fails, monkeypatch):
    """In a loading process, whose error arrives wrapped in a traceback."""
    monkeypatch.setitem(textsnake.sizes, "tiny", replace(SMALL, num_workers=1))
    data = tmp_path / "data"
    total_text(data)
    picture = data / "Images" / "Train" / "img1.jpg"
    monkeypatch.setattr("headwise.data.total_text.check_picture", lambda path: None)
    picture.write_bytes(picture.read_bytes()[:400])
    message = fails("train", "textsnake", "--demo", "--data", data, "--out", tmp_path / "run")
    assert message.startswith(f"headwise: error: {picture}: the picture cannot be decoded")


def test_a_full_disk_while_writing_a_checkpoint(tmp_path, small, fails, monkeypatch):
    real = Path.open

    def refusing(self: Path, *arguments: Any, **options: Any) -> Any:
        if ".pt." in self.name:
            real(self, *arguments, **options).close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refusing)
        message = fails("train", "textsnake", "--demo", "--out", tmp_path)
    assert "step_00000001.pt: the checkpoint could not be written (No space left on device)" in message
    assert not list((tmp_path / "checkpoints").iterdir())
    assert main(["train", "textsnake", "--demo", "--out", str(tmp_path), "--resume"]) == 0


def test_a_folder_that_cannot_be_made(tmp_path, small, fails):
    (tmp_path / "file").write_text("")
    assert f"{tmp_path / 'file'}" in fails("train", "textsnake", "--demo", "--out", tmp_path / "file" / "run")


def test_report_writes_a_page(run, capsys):
    assert main(["report", str(run)]) == 0
    page = Path(capsys.readouterr().out.strip().partition("The report is at ")[2])
    assert page.read_text().startswith("<!")


def test_report_of_nothing(tmp_path, fails):
    assert "no run folder" in fails("report", tmp_path / "nowhere")


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["train", "other"], ["train", "other", "--help"], ["train", "textsnake", "--seed", "x"], ["predict"]],
)
def test_mistakes_in_the_arguments_are_one_line(arguments, fails):
    assert "--help" in fails(*arguments)


def test_a_number_of_steps_below_one(tmp_path, small, fails):
    assert "steps is -3, but must be at least 1" in fails("train", "textsnake", "--demo", "--steps", "-3")


def test_micro_batches_do_not_change_what_a_step_trains_on(tmp_path, small):
    assert main(["train", "textsnake", "--demo", "--out", str(tmp_path / "whole")]) == 0
    arguments = ["--micro-batches", "2", "--strategy", "ddp", "--out", str(tmp_path / "split")]
    assert main(["train", "textsnake", "--demo", *arguments]) == 0
    lines = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "split")]
    assert [json.loads(line)["step"] for line in lines[0]] == [json.loads(line)["step"] for line in lines[1]]
    config = json.loads((tmp_path / "split" / "config.json").read_text())["arguments"]
    assert (config["micro_batches"], config["strategy"], config["batch_size"]) == (2, "ddp", 2)


def test_half_precision_is_a_choice(tmp_path, small, fails):
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", "textsnake", "--demo", "--precision", "16-mixed", *out]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["arguments"]["precision"] == "16-mixed"
    message = fails("train", "textsnake", "--demo", "--precision", "16-mixed", "--strategy", "fsdp2")
    assert "precision 16-mixed goes with strategy ddp" in message


def test_more_parts_than_pictures_in_a_step(tmp_path, small, fails):
    message = fails("train", "textsnake", "--demo", "--micro-batches", "3", "--out", tmp_path)
    assert "a batch of 2 pictures cannot be split over 1 processes with 3 micro-batches each" in message


def test_python_m_headwise():
    done = subprocess.run(
        [sys.executable, "-m", "headwise", "predict"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("headwise: error: ")


@pytest.mark.parametrize(
    ("verb", "given", "found"),
    [("train", None, "PASSIVE"), ("predict", None, "PASSIVE"), ("train", "ACTIVE", "ACTIVE"), ("run", None, None)],
)
def test_threads_of_train_and_predict_wait_asleep_unless_told_otherwise(verb, given, found):
    code = (
        "import os, sys\nfrom headwise.cli import main\nassert 'torch' not in sys.modules\n"
        f"try:\n    main([{verb!r}, '--help'])\nexcept SystemExit:\n    pass\n"
        "print(repr(os.environ.get('OMP_WAIT_POLICY')))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == repr(found)
