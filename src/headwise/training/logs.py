"""The logs of a run: lines of JSON, and TensorBoard's event files beside them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headwise.attribution.ledger.books import Books, TermBooks
from headwise.training.checkpoints import write_atomically


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
            OSError: it could not be written; the message names the file.
        """
        try:
            self._file.write(json.dumps(_strict(entry), allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise OSError(
                f"{self._path}: could not be written ({error.strerror}). Make room and run again with --resume."
            ) from None

    def sync(self) -> None:
        """Bring all lines to the disk, before a checkpoint says that they are there."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RunLog:
    """Everything that a run writes down while it trains.

    Args:
        folder: of the run.
        last_step: where the run continues; 0 for a fresh one.
    """

    def __init__(self, folder: Path, last_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._steps = JsonLines(folder / "log.jsonl", last_step)
        self._evaluations = JsonLines(folder / "evaluation.jsonl", last_step)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)

    def step(self, entry: Mapping[str, Any]) -> None:
        """Log a training step, in the form of `step_entry`."""
        self._steps.write(entry)
        step = entry["step"]
        for key in ("total", "learning_rate", "images_per_second"):
            self._board.add_scalar(f"train/{key}", entry[key], step)
        for name, term in entry["terms"].items():
            for key in ("value", "weighted", "share", "grad_norm"):
                self._board.add_scalar(f"{name}/{key}", term[key], step)
        for pair, cosine in entry["cosine"].items():
            self._board.add_scalar(f"cosine/{pair}", cosine, step)

    def evaluation(self, step: int, scores: Mapping[str, Any]) -> None:
        """Log an evaluation: measures by name, each with its numbers (or rows of numbers), and ``num_images``."""
        self._evaluations.write({"step": step, **scores})
        for measure, numbers in scores.items():
            for key, number in numbers.items() if isinstance(numbers, Mapping) else ():
                if isinstance(number, int | float):  # a row per class is for the report
                    self._board.add_scalar(f"evaluation/{measure}/{key}", number, step)

    def sync(self) -> None:
        """Bring everything to the disk."""
        self._steps.sync()
        self._evaluations.sync()
        self._board.flush()

    def close(self) -> None:
        """Close all files."""
        self._steps.close()
        self._evaluations.close()
        self._board.close()


class NoLog:
    """What the other processes of a run write down: nothing."""

    def step(self, entry: Mapping[str, Any]) -> None:
        """Leave it to the first process."""

    def evaluation(self, step: int, scores: Mapping[str, Any]) -> None:
        """Leave it to the first process."""

    def sync(self) -> None:
        """Nothing was written."""

    def close(self) -> None:
        """Nothing was opened."""


def step_entry(
    step: int, books: Books, *, time: float, images_per_second: float, learning_rate: float
) -> dict[str, Any]:
    """Return the log line of a step.

    Args:
        step: optimiser steps done.
        books: of the last of them.
        time: seconds since the run began, without the time between a kill and its resume.
        images_per_second: since the last line.
        learning_rate: of the step.

    Returns:
        A mapping of plain numbers, as in ``log.jsonl``.
    """
    names = books.names
    pairs = [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]
    cosines = {f"{one}|{other}": books.cosine(one, other) for one, other in pairs}
    return {
        "step": step,
        "time": time,
        "images_per_second": images_per_second,
        "learning_rate": learning_rate,
        "total": books.total,
        "terms": {name: _term_entry(books[name]) for name in names},
        "cosine": {pair: cosine for pair, cosine in cosines.items() if cosine is not None},
    }


def _term_entry(term: TermBooks) -> dict[str, Any]:
    return {
        "value": term.value,
        "weight": term.weight,
        "weighted": term.weighted,
        "share": term.share,
        "grad_norm": term.grad_norm,
        "finite": term.finite,
        "outputs": {
            path: {"grad_norm": output.grad_norm, "finite": output.finite} for path, output in term.outputs.items()
        },
        "levels": {name: asdict(level) for name, level in term.levels.items()},
    }


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _step(line: bytes) -> float:
    """Return a line's step; infinity for a line that was cut short."""
    if not line.endswith(b"\n"):
        return math.inf
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
