"""Which version it is, and where to look for help."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import headwise
from tests.own_data import kit

VERSION = importlib.metadata.version("headwise")


def test_the_command_says_its_version():
    result = kit.headwise("--version")
    assert result.code == 0, result.said
    assert VERSION in result.out


def test_the_package_knows_its_version():
    assert headwise.__version__ == VERSION


def test_a_wrong_option_points_to_the_help_of_its_verb():
    result = kit.headwise("train", "ssd", "--bach-size", "3")
    assert result.code == 2
    assert "train --help" in result.err


def test_predict_explains_its_arguments():
    lines = kit.headwise("predict", "--help").out.splitlines()
    for name in ("image", "--out"):
        (row,) = [
            index
            for index, line in enumerate(lines)
            if line.startswith(f"  {name} ") or line.strip() in (name, f"{name} DIR")
        ]
        explained = lines[row].split(name, 1)[1].replace("DIR", "").strip()
        follows = lines[row + 1 : row + 2]
        assert explained or (follows and follows[0].startswith(" " * 8)), f"{name} has no help"


def test_the_module_runs():
    """A control."""
    done = subprocess.run([sys.executable, "-m", "headwise", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "train" in done.stdout
