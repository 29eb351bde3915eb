"""What a run left in its folder, read without judging it and without tripping over what a killed run leaves."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwise.runs.entries import full

Column = list[float | None]
Keys = tuple[str, ...]


@dataclass(frozen=True)
class Log:
    """Numbers by step, read from lines of JSON.

    Attributes:
        steps: the step of each row, strictly ascending.
        columns: keys of the line's nested objects -> a value per row, `None` where it has none; flags are 1 and 0.
        remarks: what was wrong with the file, in words.
    """

    steps: list[int]
    columns: Mapping[Keys, Column]
    remarks: tuple[str, ...]

    def column(self, *path: str) -> Column:
        """The values at `path`; all `None` where no line has it."""
        return self.columns.get(path) or [None] * len(self.steps)

    def names(self, *prefix: str) -> list[str]:
        """The keys found below `prefix`, in the order of their first appearance."""
        depth = len(prefix)
        return list(dict.fromkeys(p[depth] for p in self.columns if len(p) > depth and p[:depth] == prefix))


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        folder: where it is.
        config: config.json.
        log: log.jsonl.
        evaluation: evaluation.jsonl.
        samples: the files of the held-out pictures.
        remarks: what is missing or broken, in words.
    """

    folder: Path
    config: Mapping[str, Any]
    log: Log
    evaluation: Log
    samples: tuple[Path, ...]
    remarks: tuple[str, ...]

    @property
    def terms(self) -> list[str]:
        """The names of the terms: the configuration's, then any other that was logged."""
        told = self.config.get("terms")
        names = [name for name in told if isinstance(name, str)] if isinstance(told, list) else []
        return list(dict.fromkeys([*names, *self.log.names("terms")]))

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def term(self, name: str, quantity: str) -> Column:
        """A quantity of a term (value, weight, weighted, share, grad_norm, finite) at each logged step."""
        return self.log.column("terms", name, quantity)

    def pairs(self) -> dict[tuple[str, str], Column]:
        """Cosines between terms at each logged step, `None` where the two read no output in common."""
        found, terms = {}, set(self.terms)
        for key in self.log.names("cosine"):
            pair = _split_pair(key, terms)
            if pair is not None:
                found[pair] = self.log.column("cosine", key)
        return found


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Args:
        folder: what `headwise train` wrote.

    Returns:
        What is in it; parts that are missing or broken are named in its remarks.

    Raises:
        ValueError: there is no such folder, or no readable config.json in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"report: no run folder {folder}. Give the folder that `headwise train` wrote.")
    config = _read_config(folder / "config.json")
    log, evaluation = read_log(folder / "log.jsonl"), read_log(folder / "evaluation.jsonl")
    samples = tuple(sorted((folder / "samples").glob("*.npz")))
    remarks = [*log.remarks, *evaluation.remarks]
    if not samples:
        remarks.append("No held-out pictures: samples/ holds no .npz file.")
    return Run(folder, config, log, evaluation, samples, tuple(remarks))


def _read_config(path: Path) -> Mapping[str, Any]:
    remedy = "Give the folder that `headwise train` wrote; it holds config.json."
    if not path.is_file():
        raise ValueError(f"report: {path.parent} is not a run folder, it has no config.json. {remedy}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"report: {path} cannot be read ({_one_line(error)}). {remedy}") from error
    if not isinstance(config, dict):
        raise ValueError(f"report: {path} holds a {type(config).__name__}, not an object. {remedy}")
    return config


def read_log(path: Path) -> Log:
    """Read a file with one JSON object per line.

    A line that cannot be read is skipped and counted; steps that a resumed run logged again replace the earlier ones.

    Args:
        path: the file; it need not exist.

    Returns:
        Its numbers.
    """
    if not path.is_file():
        return Log([], {}, (f"{path.name} is missing.",))
    steps: list[int] = []
    columns: dict[Keys, Column] = {}
    unread: list[int] = []
    num_replaced = num_lines = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for num_lines, line in enumerate(lines, start=1):  # the last one is used
            entry = _parse(line)
            if entry is None:
                unread.extend([num_lines] if line.strip() else [])
                continue
            num_replaced += _drop_from(entry["step"], steps, columns)
            _append(entry, steps, columns)
    for column in columns.values():
        column.extend([None] * (len(steps) - len(column)))
    remarks = [*_remarks(path.name, num_lines, unread, num_replaced, bool(steps))]
    if len(columns) >= _MOST_COLUMNS:
        remarks.append(f"{path.name} holds more than {_MOST_COLUMNS:,} different numbers; the others were left out.")
    return Log(steps, columns, tuple(remarks))


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = entry.get("step") if isinstance(entry, dict) else None
    counts = isinstance(step, int) and not isinstance(step, bool) and abs(step) <= _LAST_STEP
    return full(entry) if counts else None


def _drop_from(step: int, steps: list[int], columns: Mapping[Keys, Column]) -> int:
    """Forget the rows from `step` on; how many there were."""
    kept = bisect_left(steps, step)
    dropped = len(steps) - kept
    if dropped:
        del steps[kept:]
        for column in columns.values():
            del column[kept:]
    return dropped


def _append(entry: Mapping[str, Any], steps: list[int], columns: dict[Keys, Column]) -> None:
    steps.append(entry["step"])
    for path, value in _numbers(entry, ()):
        column = columns.get(path)
        if column is None:
            if len(columns) >= _MOST_COLUMNS:
                continue
            column = columns[path] = []
        if len(column) < len(steps):
            column.extend([None] * (len(steps) - 1 - len(column)))
            column.append(value)


def _numbers(node: Mapping[str, Any], prefix: Keys) -> Iterator[tuple[Keys, float | None]]:
    """The numbers in nested objects with their paths; a null stands for NaN, except for a cosine, where it is none."""
    for key, value in node.items():
        path = (*prefix, key)
        if isinstance(value, dict):
            if len(path) < _DEEPEST:
                yield from _numbers(value, path)
        elif isinstance(value, int | float):
            yield path, _real(value)
        elif value is None:
            yield path, None if path[0] == "cosine" else float("nan")
        elif isinstance(value, str):
            try:
                yield path, float(value)  # writers that keep to strict JSON spell NaN and inf as text
            except ValueError:
                continue


def _real(value: float) -> float:
    """A number as the computer's own kind has it; an integer beyond its range is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


_LAST_STEP = 2**53
"""Beyond it the page's scripts cannot count."""
_MOST_COLUMNS = 10_000
"""Numbers of a line that are read; a run of a hundred terms has a tenth of them."""
_DEEPEST = 12


def _remarks(name: str, num_lines: int, unread: list[int], num_replaced: int, any_rows: bool) -> Iterator[str]:
    if unread and unread[-1] == num_lines:
        yield f"The last line of {name} is cut off, as a killed run leaves it; it was left out."
        unread = unread[:-1]
    if unread:
        yield f"{len(unread)} lines of {name} cannot be read and were left out, line {unread[0]} first."
    if num_replaced:
        yield f"{num_replaced} rows of {name} were logged again after a resume; the later ones count."
    if not any_rows:
        yield f"{name} holds no steps."


def _split_pair(key: str, names: Set[str]) -> tuple[str, str] | None:
    """The two terms of `sin|cos`; a name may hold a bar itself."""
    parts = key.split("|")
    for cut in range(1, len(parts)):
        first, second = "|".join(parts[:cut]), "|".join(parts[cut:])
        if first in names and second in names:
            return first, second
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
