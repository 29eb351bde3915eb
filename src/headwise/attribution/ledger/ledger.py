"""The ledger: books every step of an unchanged training loop, on the device, without a synchronisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attribution.ledger.books import Books
from headwise.attribution.ledger.rows import Columns, Step, read_steps
from headwise.criterion.criterion import Criterion
from headwise.criterion.feature_junction import Junction
from headwise.criterion.junction import Policy
from headwise.criterion.layout import Layout
from headwise.criterion.stats import slot_dtype

_MAX_PENDING = 256


@dataclass
class _Pending:
    """A criterion call whose backward pass may still come."""

    columns: Columns
    slots: list[Tensor]
    pooled: bool


@dataclass
class _Segment:
    """A ring of rows of one layout."""

    columns: Columns
    rows: Tensor
    pooled: list[bool]
    first: int


class Ledger:
    """Keeps the books of a criterion from here on.

    In an unchanged loop::

        ledger = hw.Ledger(criterion)
        for batch in loader:
            breakdown = criterion(network(batch), targets)
            breakdown.total.backward()
        print(ledger.read())

    A row is booked when a backward pass came by, whether from ``total`` or from single entries; calls without one
    (evaluation) leave no trace. Rows lie in a ring buffer on the device; `read`, `history` and `table` fetch them in
    one transfer. Gradients with and without a ledger are equal to the bit. What is booked is what arrives through a
    term: where a loop differentiates a gradient once more (a gradient penalty), the penalty's part is in it.

    Args:
        criterion: Whose books to keep.
        network: The network, if it holds `Junction` modules: their books are kept as well.
        capacity: How many rows the ring holds.
        micro_batches: Criterion calls a step. Their books are pooled: values are summed if the calls were given
            totalled denominators and averaged otherwise, norms are those of the whole step's outputs.
        channels: Book every channel's gradient norm too.
        on_nonfinite: If given, replaces the criterion's policy while the ledger is open.

    Raises:
        ValueError: The criterion's books are kept already, or a number is less than 1.
    """

    def __init__(
        self,
        criterion: Criterion,
        network: nn.Module | None = None,
        *,
        capacity: int = 1024,
        micro_batches: int = 1,
        channels: bool = False,
        on_nonfinite: Policy | None = None,
    ) -> None:
        if criterion.recorder is not None:
            raise ValueError("the criterion's books are kept by another Ledger. Close that one first: ledger.close()")
        if capacity < 1 or micro_batches < 1:
            raise ValueError(f"capacity and micro_batches are at least 1; found {capacity} and {micro_batches}")
        if on_nonfinite not in (None, "keep", "drop", "raise"):
            raise ValueError(f"on_nonfinite is 'keep', 'drop' or 'raise'; found {on_nonfinite!r}")
        self.channels = channels
        self._criterion, self._capacity, self._micro_batches = criterion, capacity * micro_batches, micro_batches
        self._junctions = [m for m in network.modules() if isinstance(m, Junction)] if network is not None else []
        self._pending: list[_Pending] = []
        self._segments: list[_Segment] = []
        self._num_rows = 0
        self._policy, criterion.on_nonfinite = criterion.on_nonfinite, on_nonfinite or criterion.on_nonfinite
        for junction in self._junctions:
            junction.open()
        criterion.recorder = self

    def open(self, layouts: tuple[Layout, ...], device: torch.device, pooled: bool) -> list[Tensor]:
        """Gives one criterion call its slots; called by the criterion.

        Args:
            layouts: What each of the call's junctions serves.
            device: Where its outputs are.
            pooled: Whether its denominators were totalled over the step.

        Returns:
            The slots of every term's seed, then of each junction.
        """
        self._flush()
        columns = Columns(layouts, self.channels, tuple((each.name, each.readers) for each in self._junctions))
        dtype = slot_dtype(device)
        slots = [torch.zeros(num, dtype=dtype, device=device, requires_grad=True) for num in columns.sizes]
        self._pending.append(_Pending(columns, slots, pooled))
        del self._pending[:-_MAX_PENDING]
        return slots

    @torch.no_grad()
    def _flush(self) -> None:
        """Moves what backward passes have filled into the ring."""
        waiting = []
        for pending in self._pending:
            if all(slot.grad is None for slot in pending.slots):
                waiting.append(pending)
                continue
            parts = [slot.grad if slot.grad is not None else torch.zeros_like(slot) for slot in pending.slots]
            for junction in self._junctions:
                taken = junction.take()
                assert junction.slot is not None
                parts.append((torch.zeros_like(junction.slot) if taken is None else taken).to(parts[0]))
            self._write(pending, torch.cat(parts))
        self._pending = waiting

    def _write(self, pending: _Pending, row: Tensor) -> None:
        last = self._segments[-1] if self._segments else None
        if last is None or last.columns != pending.columns or last.rows.device != row.device:
            rows = torch.zeros(self._capacity, row.numel(), dtype=row.dtype, device=row.device)
            last = _Segment(pending.columns, rows, [], self._num_rows)
            self._segments.append(last)
            del self._segments[:-8]
        last.rows[len(last.pooled) % self._capacity].copy_(row)
        last.pooled.append(pending.pooled)
        self._num_rows += 1

    def read(self, *, across_ranks: bool = False, group: Any = None) -> Books:
        """The books of the last step, by one transfer to the host.

        Args:
            across_ranks: Pool the books of all ranks, as those of micro-batches: all must call it (one all-gather).
            group: The process group; None means the default one.

        Returns:
            The books, of this process's samples or ("global") of all.

        Raises:
            RuntimeError: No backward pass has been booked yet.
        """
        self._flush()
        steps = self._steps(self._micro_batches)
        if steps and across_ranks:
            return read_steps([self._gathered(steps[-1], group)])[0]
        if steps:
            return read_steps(steps)[-1]
        raise RuntimeError(
            "the ledger is empty: no backward pass of this criterion's total has run since it was opened. "
            "Call criterion(...).total.backward() first"
        )

    def _gathered(self, step: Step, group: Any) -> Step:
        """The same step with the rows of all ranks."""
        own = step.rows.to(self._segments[-1].rows.device)
        rows = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size(group))]
        torch.distributed.all_gather(rows, own, group=group)
        return replace(step, rows=torch.cat(rows).cpu(), scope="global")

    def history(self) -> list[Books]:
        """The books of all steps that the ring still holds, oldest first, by one transfer to the host."""
        self._flush()
        return read_steps(self._steps(self._capacity))

    def table(self) -> str:
        """The last step as a printable table."""
        return str(self.read())

    def _steps(self, num_rows: int) -> list[Step]:
        """The last `num_rows` rows as steps."""
        steps: list[Step] = []
        for segment in reversed(self._segments):
            held = min(len(segment.pooled), self._capacity, num_rows - sum(len(step.rows) for step in steps))
            if held <= 0:
                break
            numbers = range(len(segment.pooled) - held, len(segment.pooled))
            rows = (
                segment.rows[[number % self._capacity for number in numbers]]
                if held > 1
                else segment.rows[numbers[0] % self._capacity].unsqueeze(0)
            )
            steps = list(self._grouped(segment, numbers, rows.cpu())) + steps
        return steps

    def _grouped(self, segment: _Segment, numbers: Sequence[int], rows: Tensor) -> Iterator[Step]:
        """Splits rows into steps of `micro_batches` calls; the last step may be incomplete."""
        begin = 0
        while begin < len(rows):
            first = segment.first + numbers[begin]
            end = begin + self._micro_batches - first % self._micro_batches
            yield Step(first // self._micro_batches, segment.columns, rows[begin:end], segment.pooled[numbers[begin]])
            begin = end

    def close(self) -> None:
        """Ends the booking; what was booked stays readable."""
        if self._criterion.recorder is self:
            self._flush()
            self._criterion.recorder = None
            self._criterion.on_nonfinite = self._policy
            for junction in self._junctions:
                junction.close()

    def __enter__(self) -> Ledger:
        """Use as a context closes the books at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
