"""Runs a script with and without ``headwise run``, each in a folder of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.forked import python

ROOT = Path(__file__).parents[2]
BEFORE = ROOT / "examples" / "before"


def ran(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=280, check=False)


def under_us(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "headwise", "run", "--out", "run", *command)


def booked(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
