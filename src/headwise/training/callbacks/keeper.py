"""What all loops need: a ledger whose steps are the loop's steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

from headwise.attribution.ledger.books import Books
from headwise.attribution.ledger.ledger import Ledger
from headwise.criterion import Criterion
from headwise.runs import Run
from headwise.runs.run import Readable
from headwise.training.callbacks.keys import log_entries


@runtime_checkable
class HasLedger(Protocol):
    """A foreign criterion whose books are kept (`headwise.attribution.wrap`)."""

    @property
    def ledger(self) -> Readable:
        """Its ledger."""
        ...


Source = Criterion | Readable | HasLedger


class Keeper:
    """Keeps the books of one criterion while a loop runs, a step of the loop at a time.

    Given a criterion, it opens a ledger of its own for every optimizer step, so that a step with fewer micro-batches
    than the others (the last of an epoch) is booked as what it was. A ledger of yours is read as it is: give it
    `micro_batches` yourself. A wrapped criterion books every call as a step of its own, so that under gradient
    accumulation its books are those of the last micro-batch.

    Args:
        source: A `Criterion`; a `Ledger`; or a wrapped foreign criterion, which has one.
        calls: How often the loop calls the criterion for one micro-batch.
        run: A run folder to write what is read to.

    Attributes:
        history: The books that were logged, oldest first, each with the loop's step.

    Raises:
        ValueError: The source is none of these, or `calls` is below 1.
    """

    def __init__(self, source: Source, calls: int = 1, run: Run | None = None) -> None:
        if calls < 1:
            raise ValueError(f"calls: how often the loop calls the criterion for one micro-batch; found {calls}.")
        self.history: list[Books] = []
        self._calls, self._run = calls, run
        self._criterion = source if isinstance(source, Criterion) else None
        self._ledger = None if isinstance(source, Criterion) else _ledger_of(source)
        self._own: Ledger | None = None

    def begin(self, micro_batches: int) -> None:
        """An optimizer step begins.

        Args:
            micro_batches: The most backward passes that it may take.

        Raises:
            ValueError: Another ledger keeps this criterion's books.
        """
        if self._criterion is None:
            return
        self.close()
        self._own = Ledger(self._criterion, capacity=1, micro_batches=micro_batches * self._calls)
        self._ledger = self._own

    def read(self, step: int, prefix: str = "headwise") -> dict[str, float]:
        """The books of the step that has just ended, by one transfer to the host.

        Args:
            step: The loop's number of it.
            prefix: What the keys begin with.

        Returns:
            Entries for a logger; none where this step did not call the criterion, though earlier ones did.

        Raises:
            ValueError: The loop has never run a backward pass of this criterion.
        """
        assert self._ledger is not None, "begin() opens the books before the first step ends"
        try:
            books = self._ledger.read()
        except RuntimeError:
            if not self.history:
                raise ValueError(
                    f"step {step}: no backward pass of this criterion has been booked. Hand over the very criterion "
                    "that the loop calls, and let the loop's loss be its total (or a sum that holds its entries)."
                ) from None
            return {}
        self.history.append(replace(books, step=step))
        if self._run is not None:
            self._run.write(step, books)
        return log_entries(books, prefix)

    def close(self) -> None:
        """Close the ledger, if it is the keeper's own."""
        if self._own is not None:
            self._own.close()
            self._own = None


def _ledger_of(source: Readable | HasLedger) -> Readable:
    if isinstance(source, Readable):
        return source
    if isinstance(source, HasLedger) and isinstance(source.ledger, Readable):
        return source.ledger
    raise ValueError(
        f"books of {type(source).__name__}: expected a headwise Criterion, a Ledger, or a criterion wrapped with "
        "headwise.attribution.wrap. Wrap a criterion of your own first."
    )
