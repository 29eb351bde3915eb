"""The processes that share a run: who takes which picture, and what they agree on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

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


ALONE = Ranks()
"""A process that shares its run with none."""


def join_ranks(rank: int, count: int) -> Ranks:
    """Return this process's place among those of the run; all of them must call it.

    Args:
        rank: of this process.
        count: of all processes.

    Returns:
        The place, with a group on the host beside the one of the accelerators.
    """
    return Ranks(rank, count, dist.new_group(backend="gloo") if count > 1 else None)


def launched_by_torchrun() -> bool:
    """Whether torchrun, or another launcher that speaks its language, started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


@contextmanager
def naming_lost_ranks(ranks: Ranks) -> Iterator[None]:
    """Turn the transport's error after another process died into one that says so.

    Args:
        ranks: of the run.

    Yields:
        Nothing.

    Raises:
        ConnectionError: another process of the run ended or cannot be reached.
    """
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        reason = str(error)
        if ranks.count == 1 or not (isinstance(error, dist.DistError) or "gloo" in reason.lower()):
            raise
        raise ConnectionError(
            f"process {ranks.rank} of {ranks.count}: another process of the run ended, so this one stops; the first "
            "failure in the launcher's list is the cause. Start again with --resume."
        ) from error
