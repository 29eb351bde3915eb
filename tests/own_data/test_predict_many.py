"""A folder of pictures, some of them broken: what can be found is found, and the rest is listed."""

from __future__ import annotations

import shutil

import pytest

from tests.own_data import kit

BROKEN = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:700]),
    "empty": lambda path: path.write_bytes(b""),
    "no picture": lambda path: path.write_bytes(b"<html>not found</html>"),
}


def pictures(runs, folder):
    shutil.copytree(runs.data("ssd") / "val2017", folder)
    return folder


def names(folder, ending=".json"):
    """The results of single pictures, wherever they lie below the folder."""
    return {path.stem for path in folder.rglob(f"*{ending}") if path.stem.startswith("p")}


def test_a_folder(tmp_path, runs):
    folder = pictures(runs, tmp_path / "in")
    result = kit.headwise("predict", runs["ssd"], folder, "--out", tmp_path / "out")
    assert result.code == 0, result.said
    assert names(tmp_path / "out") == {f"p{index:02d}" for index in range(6)}
    assert names(tmp_path / "out", ".png") == names(tmp_path / "out")


def test_a_folder_that_holds_other_files_too(tmp_path, runs):
    folder = pictures(runs, tmp_path / "in")
    (folder / "notes.txt").write_text("mine")
    (folder / "Thumbs.db").write_bytes(b"\x00\x01")
    result = kit.headwise("predict", runs["ssd"], folder, "--out", tmp_path / "out")
    assert result.code == 0, result.said
    assert names(tmp_path / "out") == {f"p{index:02d}" for index in range(6)}


def test_a_folder_without_pictures(tmp_path, runs):
    (tmp_path / "in").mkdir()
    result = kit.headwise("predict", runs["ssd"], tmp_path / "in", "--out", tmp_path / "out")
    assert result.refused, result.said
    assert str(tmp_path / "in") in result.err
    assert "directory:" not in result.err.lower(), "the system's words for a folder that is opened as a file"


@pytest.mark.parametrize("kind", BROKEN)
def test_one_broken_picture_stops_nothing(tmp_path, runs, kind):
    files = sorted(pictures(runs, tmp_path / "in").iterdir())
    BROKEN[kind](files[2])
    result = kit.headwise("predict", runs["ssd"], *files, "--out", tmp_path / "out")
    assert not result.crashed, result.said
    assert result.code == 2
    assert "p02.jpg" in result.err
    assert names(tmp_path / "out") == {"p00", "p01", "p03", "p04", "p05"}


def test_all_broken_pictures_are_listed(tmp_path, runs):
    folder = pictures(runs, tmp_path / "in")
    for kind, index in zip(BROKEN, (0, 3, 5), strict=True):
        BROKEN[kind](folder / f"p{index:02d}.jpg")
    result = kit.headwise("predict", runs["ssd"], *sorted(folder.iterdir()), "--out", tmp_path / "out")
    assert result.code == 2, result.said
    assert all(f"p{index:02d}.jpg" in result.err for index in (0, 3, 5)), result.err
    assert names(tmp_path / "out") == {"p01", "p02", "p04"}


def test_whole_pictures(tmp_path, runs):
    """A control."""
    files = sorted(pictures(runs, tmp_path / "in").iterdir())
    result = kit.headwise("predict", runs["ssd"], *files, "--out", tmp_path / "out")
    assert result.code == 0, result.said
    assert all(f"p{index:02d}.json" in result.out for index in range(6))


@pytest.mark.parametrize("threshold", ["2", "-0.1", "nan"])
def test_a_threshold_that_no_score_is(tmp_path, runs, threshold):
    """It found nothing, without a word."""
    picture = next((runs.data("ssd") / "val2017").iterdir())
    result = kit.headwise("predict", runs["ssd"], picture, "--out", tmp_path / "out", f"--threshold={threshold}")
    assert result.refused
    assert "a score is from 0 to 1" in result.err
    assert not (tmp_path / "out").exists()
