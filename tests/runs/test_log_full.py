"""A disk that is full: each file of the log is named, once, and no thread speaks beside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from headwise.runs.log import JsonLines, RunLog

FULL = "No space left on device"


def entry(step: int) -> dict[str, Any]:
    return {"step": step, "total": 1.0, "learning_rate": 0.1, "terms": {}, "cosine": {}}


def test_a_line_that_the_disk_does_not_take_is_told_with_its_file_and_closing_says_nothing_else(tmp_path, monkeypatch):
    """What is left in the file's buffer would fail again, without a name, where the file is closed."""
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", **more: opened(Path("/dev/full") if mode == "ab" else path, mode, **more)
    )
    lines = JsonLines(tmp_path / "log.jsonl", 0)
    with pytest.raises(OSError, match=rf"log\.jsonl: could not be written \({FULL}\)\. Make room"):
        lines.write(entry(1))
    lines.close()


def test_event_files_that_the_disk_does_not_take_are_told_with_their_folder(tmp_path, monkeypatch, capfd):
    from tensorboard.summary.writer.record_writer import RecordWriter

    log = RunLog(tmp_path, 0)
    log.step(entry(1))
    log.sync()

    def fail(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(RecordWriter, "write", fail)

    def go_on() -> None:
        """The thread that writes tells of its error at a later call."""
        for step in range(2, 100):
            log.step(entry(step))
            log.sync()

    with pytest.raises(OSError, match=rf"tensorboard: could not be written \({FULL}\)\. Make room"):
        go_on()
    log.close()
    assert "Traceback" not in capfd.readouterr().err
