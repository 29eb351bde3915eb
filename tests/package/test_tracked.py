"""What git keeps: the project, and no run that somebody made in its folder."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {".ci", ".github", "benchmarks", "docs", "examples", "src", "tests"}
LARGEST = 400_000  # bytes; the largest recorded numbers have 272 KiB


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="no checkout of git")
def test_git_keeps_the_project_alone():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [Path(name) for name in listed.stdout.split("\0") if name]
    assert {name.parts[0] for name in names if len(name.parts) > 1} == FOLDERS
    sizes = {name: (ROOT / name).stat().st_size for name in names if (ROOT / name).exists()}
    assert [str(name) for name, size in sizes.items() if size > LARGEST] == []
