"""Where the rows lie: a ring on the device for each schema, and which of them make a step."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from headwise.attribution.ledger.schema import Brief, Schema

_FEW = 8


@dataclass(frozen=True)
class StepRows:
    """The rows of one step.

    Args:
        number: Number of the step.
        schema: What the columns mean.
        row: (width,), float64, on the host: the sum of its rows.
        pooled: Whether the calls' denominators were totaled over the step.
        scope: "local", or "global" if the rows are those of all ranks.
    """

    number: int
    schema: Schema
    row: Tensor
    pooled: bool
    scope: str = "local"


@dataclass(slots=True)
class _RowState:
    pooled: bool
    schema: Schema | None = None  # until it is written
    place: int = 0  # in the ring of its schema
    brief: Brief | None = None  # of a brief row: see `Schema.expand`


class Ring:
    """Rows in the order in which backward passes first came to their calls.

    Args:
        capacity: How many steps are kept.
        micro_batches: Calls a step, as long as nobody marks the steps.
    """

    def __init__(self, capacity: int, micro_batches: int) -> None:
        self._capacity, self.micro_batches = capacity, micro_batches
        self._size = capacity * micro_batches
        self._rows: deque[_RowState] = deque(maxlen=self._size)
        self._first = 0  # number of the oldest row
        self._buffers: dict[Schema, Tensor] = {}
        self._used: dict[Schema, int] = {}
        self._ends: deque[int] = deque(maxlen=capacity + 1)  # the rows before which a step ended
        self._num_ends = 0

    @property
    def is_marked(self) -> bool:
        """Whether somebody marks the steps."""
        return self._num_ends > 0

    def __len__(self) -> int:
        return len(self._rows)

    def reserve(self, pooled: bool) -> int:
        """A place in the order for a new row, the last.

        Args:
            pooled: Whether the denominators of its call were totaled.

        Returns:
            Its number.
        """
        if len(self._rows) == self._size:
            self._first += 1
        self._rows.append(_RowState(pooled))
        return self._first + len(self._rows) - 1

    def write(self, schema: Schema, numbers: Sequence[int], rows: Tensor, briefs: Sequence[Brief | None]) -> None:
        """Writes rows of one schema; one that is no longer kept is let go.

        Args:
            schema: What their columns mean.
            numbers: From `reserve`, ascending.
            rows: (rows, width or less), on any device.
            briefs: Of brief rows, see `Schema.expand`; None of a whole one.
        """
        buffer = self._buffers.get(schema)
        if buffer is None:
            with torch.inference_mode(False):  # else a later step could not write to it
                size = (self._size, schema.width)
                buffer = self._buffers[schema] = torch.zeros(size, dtype=rows.dtype, device=rows.device)
        begin = 0
        places = []
        for number, brief in zip(numbers, briefs, strict=True):
            if number < self._first:
                begin += 1
                continue
            held = self._rows[number - self._first]
            if held.schema is not schema:
                place = self._used.get(schema, 0)
                self._used[schema] = place + 1
                held.schema, held.place = schema, place % self._size
            held.brief = brief
            places.append(held.place)
        for start, stop in _runs(places):
            into = buffer[places[start] : places[start] + stop - start, : rows.shape[1]]
            into.copy_(rows[begin + start : begin + stop])

    def step_of(self, number: int) -> int:
        """The step that a row belongs to.

        Args:
            number: From `reserve`.

        Returns:
            Its number.
        """
        if not self._num_ends:
            return number // self.micro_batches
        return self._num_ends - len(self._ends) + bisect_right(self._ends, number)

    @property
    def num_steps(self) -> int:
        """How many steps have ended."""
        return self._num_ends or (self._first + len(self._rows)) // self.micro_batches

    def mark(self) -> None:
        """A step ends here, if a row has come since the last mark."""
        end = self._first + len(self._rows)
        if end and (not self._ends or self._ends[-1] < end):
            self._ends.append(end)
            self._num_ends += 1

    def steps(self, most: int) -> list[StepRows]:
        """The last steps, oldest first, by one transfer to the host for each schema.

        Args:
            most: How many.

        Returns:
            The steps; a first one of which rows are lost is left out.
        """
        spans = self._spans()[-most:]
        if not spans:
            return []
        hosted = self._hosted(spans)
        found = []
        for number, begin, end in spans:
            rows = [self._rows[place - self._first] for place in range(begin, end)]
            by_core: dict[Schema, list[tuple[Schema, _RowState]]] = {}
            for row in rows:
                if row.schema is not None:
                    by_core.setdefault(row.schema.core, []).append((row.schema, row))
            for same in by_core.values():
                schema, total = added([(each, _whole(row, each, hosted[each][row.place])) for each, row in same])
                found.append(StepRows(number, schema, total, same[0][1].pooled))
        return found

    def _hosted(self, spans: Sequence[tuple[int, int, int]]) -> dict[Schema, dict[int, Tensor]]:
        """The rows of some steps on the host, by schema and place."""
        places: dict[Schema, list[int]] = {}
        for _, begin, end in spans:
            for number in range(begin, end):
                row = self._rows[number - self._first]
                if row.schema is not None:
                    places.setdefault(row.schema, []).append(row.place)
        found = {}
        for schema, wanted in places.items():
            buffer = self._buffers[schema]
            rows = torch.stack([buffer[place] for place in wanted]) if len(wanted) <= _FEW else buffer[wanted]
            found[schema] = dict(zip(wanted, rows.double().cpu(), strict=True))
        return found

    def _spans(self) -> list[tuple[int, int, int]]:
        """(number of the step, first row, end) of all steps of which every row is kept."""
        last = self._first + len(self._rows)
        if not self._num_ends:
            each = self.micro_batches
            numbers = range(-(-self._first // each), -(-last // each))
            return [(number, number * each, min(last, (number + 1) * each)) for number in numbers]
        ends = list(self._ends)
        before = self._num_ends - len(ends)
        spans = [(before + place, ends[place - 1] if place else 0, end) for place, end in enumerate(ends)]
        if before:
            spans = spans[1:]  # where the first of these begins is forgotten
        if last > ends[-1]:
            spans.append((self._num_ends, ends[-1], last))
        return [span for span in spans if span[1] >= self._first][-self._capacity :]


def added(rows: Sequence[tuple[Schema, Tensor]]) -> tuple[Schema, Tensor]:
    """The sum of rows of one core.

    Args:
        rows: What the columns of each mean, and the row.

    Returns:
        The same of the sum.
    """
    schema = rows[0][0].joined(each for each, _ in rows[1:])
    return schema, torch.stack([schema.widen(row, each) for each, row in rows]).sum(0)


def _whole(row: _RowState, schema: Schema, columns: Tensor) -> Tensor:
    """All columns of a row, on the host."""
    return columns if row.brief is None else schema.expand(columns, row.brief)


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """(begin, end) of the longest stretches in which each place is the next one."""
    cuts = [at for at in range(1, len(places)) if places[at] != places[at - 1] + 1]
    return list(pairwise([0, *cuts, len(places)])) if places else []
