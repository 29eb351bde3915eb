"""An error of a library is one line that names the file, whatever class it derives from."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.own_data import kit


def named(result, name):
    """Check that a command was refused in one line that names a file."""
    assert not result.crashed, result.said[-600:]
    assert result.refused, result.said
    assert result.err.strip().splitlines()[-1].count(name) >= 1, result.err


@pytest.mark.parametrize("recipe", ["ssd", "weighted_unet", "textsnake"])
def test_predict_on_a_picture_over_pillows_limit(tmp_path, runs, recipe):
    kit.broken_header(tmp_path / "scan.png")
    result = kit.headwise("predict", runs[recipe], tmp_path / "scan.png", "--out", tmp_path / "out")
    assert not result.crashed, result.said[-600:]
    assert result.code == 2, result.said
    assert "scan.png" in result.err


def test_a_whole_picture_over_pillows_limit(tmp_path, runs, monkeypatch):
    """Read, or named."""
    Image.new("RGB", (160, 120), (9, 9, 9)).save(tmp_path / "scan.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    result = kit.headwise("predict", runs["ssd"], tmp_path / "scan.png", "--out", tmp_path / "out")
    assert not result.crashed, result.said[-600:]
    if result.code != 0:
        assert result.code == 2, result.said
        assert "scan.png" in result.err


def test_boxes_with_a_picture_over_pillows_limit(tmp_path):
    def huge(content, split):
        for image in content["images"]:
            del image["width"], image["height"]

    data = kit.coco(tmp_path / "data", change=huge, names="p{:02d}.png")
    kit.broken_header(data / "train2017" / "p03.png")
    named(kit.train("ssd", data, tmp_path / "run"), "p03.png")


def test_instances_with_a_picture_over_pillows_limit(tmp_path):
    data = kit.instances(tmp_path / "data")
    kit.broken_header(data / "train/pictures/i2.png")
    named(kit.train("weighted_unet", data, tmp_path / "run"), "i2.png")


def test_words_on_a_picture_over_pillows_limit(tmp_path):
    data = kit.total_text(tmp_path / "data")
    (data / "Images/Train/img1.jpg").unlink()
    kit.broken_header(data / "Images/Train/img1.png")
    named(kit.train("textsnake", data, tmp_path / "run"), "img1.png")


def test_an_empty_mat_file(tmp_path):
    data = kit.total_text(tmp_path / "data")
    truth = data / "Groundtruth/Polygon/Train"
    (truth / "poly_gt_img0.txt").unlink()
    (truth / "poly_gt_img0.mat").touch()
    named(kit.train("textsnake", data, tmp_path / "run"), "poly_gt_img0.mat")


def test_a_mat_file_of_something_else(tmp_path):
    """A control."""
    data = kit.total_text(tmp_path / "data")
    truth = data / "Groundtruth/Polygon/Train"
    (truth / "poly_gt_img0.txt").unlink()
    (truth / "poly_gt_img0.mat").write_bytes(b"<html>not found</html>" * 20)
    named(kit.train("textsnake", data, tmp_path / "run"), "poly_gt_img0.mat")


def test_a_truncated_picture(tmp_path):
    """A control."""
    data = kit.coco(tmp_path / "data")
    for path in (data / "train2017").iterdir():
        path.write_bytes(path.read_bytes()[:700])
    result = kit.train("ssd", data, tmp_path / "run")
    assert result.refused, result.said
    assert ".jpg" in result.err


@pytest.mark.slow
def test_the_run_folder_is_deleted_in_mid_training(tmp_path):
    data, run = kit.coco(tmp_path / "data"), tmp_path / "run"
    words = ["train", "ssd", "--data", data, "--size", "tiny", "--steps", "40", "--out", run]
    process = subprocess.Popen(
        [sys.executable, "-m", "headwise", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        end = time.monotonic() + 60
        while not (run / "log.jsonl").is_file() and time.monotonic() < end and process.poll() is None:
            time.sleep(0.1)
        shutil.rmtree(run, ignore_errors=True)
        _, told = process.communicate(timeout=180)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in told, told[-600:]
    if process.returncode != 0:
        lines = [line for line in told.splitlines() if line.strip()]
        assert process.returncode == 2
        assert lines[-1].startswith("headwise: error: ")
        assert str(run) in lines[-1]
        assert "b'" not in lines[-1]
