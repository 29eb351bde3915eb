"""However the command is left, the run keeps what it reached: a closed terminal, a pipe that nobody reads any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headwise.training.folder.checkpoints import list_checkpoints
from tests.own_data import kit

LONG = ["train", "weighted_unet", "--size", "tiny", "--steps", "100000", "--workers", "0"]
SMALL = {"width": 4, "depth": 2, "crop_size": 48, "log_every": 1, "batch_size": 2, "checkpoint_every": 100_000}


def start(data: Path, run: Path, stdout: int) -> subprocess.Popen[str]:
    words = [*LONG, "--data", str(data), "--out", str(run)]
    words += [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "headwise", *words]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=os.environ)


def begun(run: Path) -> bool:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if (run / "log.jsonl").is_file() and (run / "log.jsonl").stat().st_size > 0:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_closed_terminal(tmp_path):
    process = start(kit.instances(tmp_path / "data"), tmp_path / "run", stdout=subprocess.DEVNULL)
    try:
        assert begun(tmp_path / "run")
        process.send_signal(signal.SIGHUP)
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGHUP
    assert "Traceback" not in told
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


@pytest.mark.slow
def test_a_pipe_that_nobody_reads(tmp_path):
    process = start(kit.instances(tmp_path / "data"), tmp_path / "run", stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert begun(tmp_path / "run")
        process.stdout.close()
        process.stdout = None
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGHUP
    assert "Traceback" not in told
    assert "BrokenPipe" not in told
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


def test_help_into_a_pipe_that_nobody_reads():
    process = subprocess.Popen(
        f"{sys.executable} -m headwise recipes | true", shell=True, stderr=subprocess.PIPE, text=True
    )
    _, told = process.communicate(timeout=120)
    assert told == ""
