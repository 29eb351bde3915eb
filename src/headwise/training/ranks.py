"""The processes that share a run: who takes which picture, and what they agree on."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from headwise.training.processes.interrupts import wake_daemons
from headwise.training.processes.lifeline import open_lifeline, stopping

PATIENCE = 300.0
"""Seconds without a sign of life after which a process counts as lost, if nothing else is said."""

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One process among those of a run.

    Args:
        rank: of this process.
        count: of all processes.
        group: over which plain objects and flags travel, on the host; None for a process alone.
    """

    rank: int = 0
    count: int = 1
    group: Any = field(default=None, compare=False)

    def share(self, total: int) -> range:
        """Return which of `total` items this process takes; every item is one process's.

        Args:
            total: how many there are.

        Returns:
            Their numbers: every `count`-th from `rank` on.
        """
        return range(self.rank, total, self.count)

    def gather(self, items: Sequence[T]) -> list[T]:
        """Put the results of `share` back into their order, on every process.

        Args:
            items: one for each number of this process's share.

        Returns:
            All items.
        """
        if self.count == 1:
            return list(items)
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, list(items), group=self.group)
        total = sum(len(part) for part in parts)
        return [parts[number % self.count][number // self.count] for number in range(total)]

    def most(self, number: int) -> int:
        """Return the largest of the processes' numbers, on all of them.

        Args:
            number: this process's, at least 0 and below 2**31.

        Returns:
            The largest.
        """
        if self.count == 1:
            return number
        flag = torch.tensor(number, dtype=torch.int32)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.group)
        return int(flag)

    def from_first(self, item: T) -> T:
        """Return what the first process has.

        Args:
            item: of this process.

        Returns:
            The first process's.
        """
        if self.count == 1:
            return item
        box = [item]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def on_first(self, function: Callable[[], T]) -> T:
        """Call a function on the first process alone; its result, or its error, is everyone's.

        Args:
            function: to call.

        Returns:
            Its result, on every process.

        Raises:
            Exception: whatever it raised on the first process.
        """
        if self.count == 1:
            return function()
        result, error = self.from_first(_outcome(function) if self.rank == 0 else (None, None))
        if error is not None:
            raise error
        return result  # type: ignore[return-value]


ALONE = Ranks()
"""A process that shares its run with none."""


def _outcome(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:  # raised again on every process
        return None, error


def join_ranks(rank: int, count: int) -> Ranks:
    """Return this process's place among those of the run; all of them must call it.

    Args:
        rank: of this process.
        count: of all processes, connected by the engine.

    Returns:
        The place, with a group on the host beside the one of the accelerators.

    Raises:
        ConnectionError: another process ended meanwhile.
    """
    with _meeting(rank):
        return Ranks(rank, count, dist.new_group(backend="gloo")) if count > 1 else ALONE


@contextmanager
def _meeting(rank: int) -> Iterator[None]:
    """Say what a transfer that breaks off means before the processes have lines by which they could tell."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            f"process {rank} stops because another one ended while they met. Continue with --resume."
        ) from error


@contextmanager
def naming_lost_ranks(ranks: Ranks, patience: float = PATIENCE) -> Iterator[None]:
    """Notice when another process of the run is lost, and tell the others why this one ends; all must call it.

    The error of a process that torchrun started is also what torchrun shows of it.

    Args:
        ranks: of the run.
        patience: seconds without a sign of life after which a process counts as lost.

    Yields:
        Nothing.

    Raises:
        ConnectionError: another process was lost; the message names it and its reason, once they have met.
    """
    if ranks.count == 1:
        with _recorded():
            yield
        return
    host = os.environ.get("MASTER_ADDR", "localhost")
    with _meeting(ranks.rank):
        lifeline = open_lifeline(ranks.rank, ranks.count, host, ranks.from_first, patience)
    reason = None
    try:
        with _recorded():
            yield
    except RuntimeError as error:
        lost = lifeline.lost(_NEWS if _may_be_of_a_transfer(error) else 0)
        if lost is None:
            reason = error_line(error)
            raise
        raise ConnectionError(stopping(ranks.rank, lost)) from error
    except BaseException as error:
        reason = error_line(error)
        raise
    finally:
        lifeline.close(reason)


@contextmanager
def _recorded() -> Iterator[None]:
    """Write an error to the file that torchrun names for it, if one did, and let the process end fast."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    try:
        yield
    except Exception as error:
        with suppress(OSError):
            get_error_handler().record_exception(error)
        wake_daemons()
        atexit.register(gc.freeze)  # nothing is left to be found there, and the search takes seconds
        raise


def _may_be_of_a_transfer(error: RuntimeError) -> bool:
    """Whether a transfer that broke off raises such: gloo does without a class, as does much else, NCCL with one."""
    return type(error) is RuntimeError or isinstance(error, dist.DistError)


_NEWS = 2.0
"""Seconds in which the news of a lost process arrives after a transfer broke off."""


def error_line(error: BaseException) -> str:
    """Return the line of an error that says what happened.

    Args:
        error: perhaps of a loading process, whose message is a traceback with that line at its end.

    Returns:
        The first line; of a loading process's error the last, without the error's kind.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "in DataLoader worker process" in lines[0]:
        return lines[-1].partition(": ")[2] or lines[-1]
    return lines[0]


def launched_by_torchrun() -> bool:
    """Whether torchrun, or another launcher that speaks its language, started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


def restarted_by_torchrun() -> bool:
    """Whether torchrun started the processes of this run again, after one of them had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
