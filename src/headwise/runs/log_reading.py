"""A log of a run as columns of numbers, read as it grows and without tripping over what a killed run leaves."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwise.files import parse_json
from headwise.runs.entries import full_cosines, pairs_of, with_cosines

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


def read_log(path: Path) -> Log:
    """Read a file with one JSON object per line.

    A line that cannot be read is skipped and counted; steps that a resumed run logged again replace the earlier ones.

    Args:
        path: the file; it need not exist.

    Returns:
        Its numbers.
    """
    reader = LogReader(path)
    reader.follow()
    return reader.log()


class LogReader:
    """Reads a log as it grows: every call of `follow` takes what came since the one before.

    Args:
        path: the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place: tuple[int, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self._offset = self._num_lines = self._num_replaced = 0
        self._rest = self._end = b""
        self._unread: list[int] = []
        self._steps: list[int] = []
        self._columns: dict[Keys, Column] = {}
        self._alike: _Alike | None = None

    def follow(self) -> bool:
        """Read on.

        Returns:
            Whether there was anything new.
        """
        try:
            found = self._path.stat()
        except OSError:
            was_there, self._place = self._place is not None, None
            self._forget()
            return was_there
        place = (found.st_dev, found.st_ino)
        if place != self._place or found.st_size < self._offset:  # another file: a resumed run writes its log anew
            self._forget()
            self._place = place
        if found.st_size <= self._offset:
            return False
        with self._path.open("rb") as file:
            file.seek(self._offset - len(self._end))
            if file.read(len(self._end)) != self._end:  # another file still: systems give a number that is free again
                self._forget()
                file.seek(0)
            while piece := file.read(_PIECE):
                self._offset += len(piece)
                self._end = (self._end + piece)[-_KNOWN:]
                lines = (self._rest + piece).split(b"\n")
                self._rest = lines.pop()
                for line in lines:
                    self._take(line)
        return True

    def _take(self, line: bytes) -> None:
        self._num_lines += 1
        if self._alike is not None and self._alike.take(line, self._steps, self._columns):
            return
        entry = _parse(line)
        if entry is None:
            self._unread.extend([self._num_lines] if line.strip() else [])
            return
        in_parts = bool(self._steps) and self._steps[-1] == entry["step"]  # of which the last has all
        self._num_replaced -= in_parts
        self._num_replaced += _drop_from(entry["step"], self._steps, self._columns)
        _append(entry, self._steps, self._columns)
        self._alike = _Alike.of(line, entry, self._columns)
        if self._alike is not None:
            self._alike.level(len(self._steps))

    def log(self) -> Log:
        """What was read so far.

        Returns:
            Its numbers; they share their lists with the reader.
        """
        if self._place is None:
            return Log([], {}, (f"{self._path.name} is missing.",))
        for column in self._columns.values():
            column.extend([None] * (len(self._steps) - len(column)))
        cut = [self._num_lines + 1] if self._rest.strip() else []
        counted = self._num_lines + len(cut)
        name = self._path.name
        remarks = [*_remarks(name, counted, self._unread + cut, self._num_replaced, bool(self._steps))]
        if len(self._columns) >= _MOST_COLUMNS:
            remarks.append(f"{name} holds more than {_MOST_COLUMNS:,} different numbers; the others were left out.")
        return Log(self._steps, self._columns, tuple(remarks))


@dataclass(frozen=True)
class _Alike:
    """A line that was read, to take others that differ from it in their numbers alone, which is most of a log.

    Attributes:
        text: what stands between the numbers.
        columns: where the numbers go, the step first.
        others: columns whose value is part of the text, with it: flags, and what is not finite.
        pairs: of which the line has cosines at its end, in their order; `None` where it has none.
    """

    text: list[bytes]
    columns: list[Column]
    others: list[tuple[Column, float | None]]
    pairs: list[str] | None

    @classmethod
    def of(cls, line: bytes, entry: Mapping[str, Any], columns: Mapping[Keys, Column]) -> _Alike | None:
        """A line as an example, or `None` where its text cannot be taken apart.

        Args:
            line: as it stands in the log, without its end.
            entry: what was read from it, already in the columns.
            columns: all of the log.
        """
        head, mark, _ = line.partition(_COSINES)
        parts = _NUMBERS.split(head)
        leaves = [(path, value) for path, value in _leaves(entry, ()) if not (mark and path[0] == "cosine")]
        numbers = [(path, value) for path, value in leaves if type(value) in (int, float)]
        known = all(path in columns for path, _ in leaves) and parts[0] == b'{"step'
        if not known or len(numbers) != len(parts) // 2:
            return None
        try:
            if any(float(part) != _real(value) for part, (_, value) in zip(parts[1::2], numbers, strict=True)):
                return None
        except ValueError:  # a part of a name that looks like a number after its key
            return None
        plain = {path for path, _ in numbers}
        others = [(columns[path], columns[path][-1]) for path, _ in leaves if path not in plain]
        pairs = pairs_of(tuple(entry.get("terms", ()))) if mark else None
        return cls(parts[::2], [columns[path] for path, _ in numbers], others, pairs)

    def level(self, length: int) -> None:
        """Fill the columns up to a row."""
        for column in (*self.columns, *(column for column, _ in self.others)):
            column.extend([None] * (length - len(column)))

    def take(self, line: bytes, steps: list[int], columns: dict[Keys, Column]) -> bool:
        """Put the numbers of a line into the columns; whether it is alike, and goes on where the last one ended."""
        head, mark, tail = line.partition(_COSINES)
        parts = _NUMBERS.split(head)
        if parts[::2] != self.text or bool(mark) is (self.pairs is None):
            return False
        try:
            numbers = [*map(float, parts[1::2])]
            cosines = full_cosines(parse_json(b"[" + tail[:-1]), self.pairs) if self.pairs is not None else {}
        except ValueError:
            return False
        step = numbers[0]
        if step <= steps[-1] or step > _LAST_STEP or not step.is_integer():
            return False
        for column, number in zip(self.columns, numbers, strict=True):
            column.append(number)
        for column, value in self.others:
            column.append(value)
        for pair, cosine in cosines.items():
            column = columns.setdefault(("cosine", pair), [])
            column.extend([None] * (len(steps) - len(column)))
            column.append(cosine)
        steps.append(int(step))
        return True


_NUMBERS = re.compile(rb'":[ ]?(-?[0-9][^,}\]\s]*)')
_COSINES = b',"cosine":['


def _append(entry: Mapping[str, Any], steps: list[int], columns: dict[Keys, Column]) -> None:
    steps.append(entry["step"])
    for path, value in _leaves(entry, ()):
        column = columns.get(path)
        if column is None:
            if len(columns) >= _MOST_COLUMNS:
                continue
            column = columns[path] = []
        if len(column) < len(steps):
            column.extend([None] * (len(steps) - 1 - len(column)))
            column.append(_real(value, is_cosine=path[0] == "cosine"))


def _leaves(node: Mapping[str, Any], prefix: Keys) -> Iterator[tuple[Keys, Any]]:
    """The numbers in nested objects with their paths, in their order; texts that spell one, and nulls, are some."""
    for key, value in node.items():
        path = (*prefix, key)
        if isinstance(value, dict):
            if len(path) < _DEEPEST:
                yield from _leaves(value, path)
        elif value is None or isinstance(value, int | float):
            yield path, value
        elif isinstance(value, str):
            try:
                float(value)  # writers that keep to strict JSON spell NaN and inf as text
            except ValueError:
                continue
            yield path, value


def _real(value: Any, *, is_cosine: bool = False) -> float | None:
    """A number as the computer's own kind has it; a null stands for NaN, except for a cosine, where it is none."""
    if value is None:
        return None if is_cosine else math.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond the range
        return math.inf if value > 0 else -math.inf


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = parse_json(line.decode(errors="replace"))
    except ValueError:
        return None
    step = entry.get("step") if isinstance(entry, dict) else None
    counts = isinstance(step, int) and not isinstance(step, bool) and abs(step) <= _LAST_STEP
    return with_cosines(entry) if counts else None


def _drop_from(step: int, steps: list[int], columns: Mapping[Keys, Column]) -> int:
    """Forget the rows from `step` on; how many there were."""
    kept = bisect_left(steps, step)
    dropped = len(steps) - kept
    if dropped:
        del steps[kept:]
        for column in columns.values():
            del column[kept:]
    return dropped


_PIECE = 1 << 24
"""Bytes that are read at once."""
_KNOWN = 512
"""Bytes before the place where reading goes on that must be those that were read: times and values in six digits."""
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
        lines, were = ("1 line", "was") if len(unread) == 1 else (f"{len(unread)} lines", "were")
        yield f"{lines} of {name} cannot be read and {were} left out, line {unread[0]} first."
    if num_replaced:
        rows, were = ("1 row", "was") if num_replaced == 1 else (f"{num_replaced} rows", "were")
        yield f"{rows} of {name} {were} logged again after a resume; what was logged later counts."
    if not any_rows:
        yield f"{name} holds no steps."
