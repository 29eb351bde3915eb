"""The logs of a run: lines of JSON, and TensorBoard's event files beside them.

A line is flushed as it is written, so that it can be read at once and a kill costs the last one at most.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from headwise.files import parse_json, write_atomically
from headwise.runs.alerts.alert import Alert
from headwise.runs.alerts.watch import ALERTS
from headwise.runs.entries import brief, flat_terms, step_entry

__all__ = ["JsonLines", "NoLog", "RunLog", "step_entry"]

MOST_PAIRS = 45
"""Cosines that TensorBoard gets too: those of ten terms. Pairs grow with the square of the terms."""


class JsonLines:
    """A file of JSON objects, one a line, each with its ``step``.

    A resumed run forgets what it will log again.

    Args:
        path: the file.
        last_step: lines of later steps, and a last line that a kill cut short, are removed first.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        kept = [line for line in _lines(path) if _step(line) <= last_step]
        write_atomically(path, b"".join(kept))
        self._path = path
        self._file = path.open("ab")

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one object; what is not finite is written as text, since JSON has no word for it.

        Args:
            entry: with its ``step``.

        Raises:
            OSError: it could not be written, or is not where it was; the message names the file.
        """
        try:
            self._file.write(brief(entry) + b"\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from None
        self._check_place()

    def _check_place(self) -> None:
        """A file that was moved, removed or replaced still takes lines, and nobody finds them."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                return
        raise OSError(
            f"{self._path}: it was moved, removed or replaced while the run was under way, so nothing more is written "
            "there. Put it back and resume the run, or begin another."
        )

    def sync(self) -> None:
        """Bring all lines to the disk, before a checkpoint says that they are there."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file: what it could not take was told when it was written."""
        with suppress(OSError):
            self._file.close()


class RunLog:
    """Everything that a run writes down while it trains.

    Args:
        folder: of the run.
        last_step: where the run continues; 0 for a fresh one.
        board: whether TensorBoard's event files are written too.
    """

    def __init__(self, folder: Path, last_step: int, *, board: bool = True) -> None:
        self._steps = JsonLines(folder / "log.jsonl", last_step)
        self._evaluations = JsonLines(folder / "evaluation.jsonl", last_step)
        self._open_alerts: Callable[[], JsonLines] = lambda: JsonLines(folder / ALERTS, last_step)
        self._alerts = self._open_alerts() if (folder / ALERTS).exists() else None
        self._board = _Board(folder / "tensorboard", last_step) if board else None
        self._scores: dict[str, Any] = {"step": None}

    def step(self, entry: Mapping[str, Any]) -> None:
        """Log a training step, in the form of `step_entry`."""
        self._steps.write(entry)
        if self._board is not None:
            for key in ("total", "learning_rate", "images_per_second"):
                if entry.get(key) is not None:
                    self._board.add_scalar(f"train/{key}", entry[key], entry["step"])
            for key, number in flat_terms(entry["terms"]):
                self._board.add_scalar(key, number, entry["step"])
            for key, number in entry.get("unbooked", {}).items():
                self._board.add_scalar(f"unbooked/{key}", number, entry["step"])
            for pair, cosine in entry["cosine"].items() if len(entry["cosine"]) <= MOST_PAIRS else ():
                self._board.add_scalar(f"cosine/{pair}", cosine, entry["step"])

    def evaluation(self, step: int, scores: Mapping[str, Any]) -> None:
        """Log an evaluation: measures by name, each with its numbers (or rows of numbers), and ``num_images``.

        What is given in parts, call by call at one step, is one evaluation.
        """
        if self._scores["step"] != step:
            self._scores = {"step": step}
        for name, numbers in scores.items():
            known = self._scores.get(name)
            if isinstance(numbers, Mapping) and isinstance(known, Mapping):
                numbers = {**known, **numbers}
            self._scores[name] = numbers
        self._evaluations.write(self._scores)
        if self._board is None:
            return
        for measure, numbers in scores.items():
            for key, number in numbers.items() if isinstance(numbers, Mapping) else ():
                if isinstance(number, int | float):  # a row per class is for the report
                    self._board.add_scalar(f"evaluation/{measure}/{key}", number, step)

    def alert(self, alert: Alert) -> None:
        """Log an alert, in a file that is there only where there is one."""
        if self._alerts is None:
            self._alerts = self._open_alerts()
        self._alerts.write(asdict(alert))

    def sync(self) -> None:
        """Bring everything to the disk."""
        self._steps.sync()
        self._evaluations.sync()
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Close all files."""
        self._steps.close()
        self._evaluations.close()
        if self._alerts is not None:
            self._alerts.close()
        if self._board is not None:
            self._board.close()


class _Board:
    """TensorBoard's event files, whose errors name them: a thread writes them, and they come out at a later call.

    Args:
        folder: of the files.
        last_step: where the run continues.
    """

    def __init__(self, folder: Path, last_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _quiet_writers()
        self._folder, self._failed = folder, False
        self._writer = SummaryWriter(str(folder), purge_step=last_step + 1)

    def add_scalar(self, name: str, number: float, step: int) -> None:
        """Write a number of a step."""
        with self._naming():
            self._writer.add_scalar(name, number, step)

    def flush(self) -> None:
        """Bring everything to the disk."""
        with self._naming():
            self._writer.flush()

    def close(self) -> None:
        """Close the files; an error that was told is not told again."""
        if not self._failed:
            with self._naming():
                self._writer.close()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed = True
            raise _unwritable(self._folder, error) from None


def _unwritable(place: Path, error: OSError) -> OSError:
    return OSError(f"{place}: could not be written ({error.strerror}). Make room, and resume the run.")


@cache
def _quiet_writers() -> None:
    """Let no thread of TensorBoard print the error that it hands over."""
    before = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        if not type(raised.thread).__module__.startswith("tensorboard."):
            before(raised)

    threading.excepthook = hook


class NoLog:
    """What the other processes of a run write down: nothing."""

    def step(self, entry: Mapping[str, Any]) -> None:
        """Leave it to the first process."""

    def evaluation(self, step: int, scores: Mapping[str, Any]) -> None:
        """Leave it to the first process."""

    def alert(self, alert: Alert) -> None:
        """Leave it to the first process."""

    def sync(self) -> None:
        """Nothing was written."""

    def close(self) -> None:
        """Nothing was opened."""


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _step(line: bytes) -> float:
    """Return a line's step; infinity for a line that was cut short."""
    if not line.endswith(b"\n"):
        return math.inf
    try:
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
