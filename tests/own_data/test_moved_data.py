"""A run is resumed from wherever its data lie now; other data are refused."""

from __future__ import annotations

import shutil

import pytest

from tests.own_data import kit

KINDS = {"ssd": kit.coco, "weighted_unet": kit.instances}


def unfinished(recipe, data, out):
    """A run of two steps whose last checkpoint is the first step's."""
    from headwise.recipes import RECIPES

    RECIPES[recipe](data, out=out, size="tiny", steps=2, checkpoint_every=1, num_workers=0)
    (out / "checkpoints" / "step_00000002.pt").unlink()
    return out


def goes_on(result, run):
    """Check that a command continued the run to its end."""
    assert result.code == 0, result.said
    assert "continuing after step 1" in result.said
    assert (run / "checkpoints" / "step_00000002.pt").is_file()


@pytest.mark.parametrize("recipe", KINDS)
def test_resume_from_another_directory(tmp_path, monkeypatch, recipe):
    """``--data`` was given relative to the directory of the first command."""
    KINDS[recipe](tmp_path / "first" / "mine")
    (tmp_path / "second").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    run = unfinished(recipe, "mine", tmp_path / "run")
    monkeypatch.chdir(tmp_path / "second")
    goes_on(kit.headwise("train", recipe, "--out", run, "--resume"), run)


@pytest.mark.parametrize("recipe", KINDS)
def test_resume_with_data_that_moved(tmp_path, recipe):
    data = KINDS[recipe](tmp_path / "old")
    run = unfinished(recipe, str(data), tmp_path / "run")
    data.rename(tmp_path / "new")
    goes_on(kit.headwise("train", recipe, "--out", run, "--resume", "--data", tmp_path / "new"), run)


def test_resume_with_the_same_folder_written_in_another_way(tmp_path, monkeypatch):
    data = kit.coco(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    run = unfinished("ssd", "mine", tmp_path / "run")
    goes_on(kit.headwise("train", "ssd", "--out", run, "--resume", "--data", data), run)


def test_resume_a_second_time_needs_no_data_again(tmp_path):
    """What was said at the first resume is kept, or the remedy is told."""
    data = kit.coco(tmp_path / "old")
    run = unfinished("ssd", str(data), tmp_path / "run")
    data.rename(tmp_path / "new")
    goes_on(kit.headwise("train", "ssd", "--out", run, "--resume", "--data", tmp_path / "new"), run)
    result = kit.headwise("train", "ssd", "--out", run, "--resume")
    assert result.code == 0 or "--data" in result.err, result.said


@pytest.mark.parametrize("recipe", KINDS)
def test_data_that_are_gone_are_asked_for(tmp_path, recipe):
    """The remedy, which is an option of the command, and not what a new data set should look like."""
    data = KINDS[recipe](tmp_path / "old")
    run = unfinished(recipe, str(data), tmp_path / "run")
    data.rename(tmp_path / "new")
    before = kit.snapshot(run)
    result = kit.headwise("train", recipe, "--out", run, "--resume")
    assert result.refused, result.said
    assert str(data) in result.err
    assert "--data" in result.err
    assert kit.snapshot(run) == before


def test_other_categories_are_refused(tmp_path):
    """A control."""

    def other(content, split):
        content["categories"][1]["name"] = "ring"

    run = unfinished("ssd", str(kit.coco(tmp_path / "old")), tmp_path / "run")
    result = kit.headwise("train", "ssd", "--out", run, "--resume", "--data", kit.coco(tmp_path / "new", change=other))
    assert result.refused, result.said


def test_a_run_folder_may_move(tmp_path):
    """A control."""
    run = unfinished("ssd", str(kit.coco(tmp_path / "data")), tmp_path / "run")
    shutil.move(run, tmp_path / "elsewhere")
    goes_on(kit.headwise("train", "ssd", "--out", tmp_path / "elsewhere", "--resume"), tmp_path / "elsewhere")
