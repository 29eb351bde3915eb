"""Every picture of a data set decoded once, before anything is trained on it: on all cores, and remembered."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch.utils.data import DataLoader, Dataset

from headwise.data.checks.look_cache import Inspectable, LookCache
from headwise.data.checks.mistakes import Mistakes
from headwise.data.loading import live_for_the_loop
from headwise.data.pictures import MIXED_UP, Look

Progress = Callable[[int, int], None]

FEW = 256
"""Pictures below which one process is as fast as several, and nothing is worth remembering."""


class Failure(NamedTuple):
    """Why a sample cannot be used."""

    message: str
    unreadable: bool

    def error(self) -> Exception:
        """Return it as it was raised."""
        return OSError(self.message) if self.unreadable else ValueError(self.message)


class Inspection(NamedTuple):
    """What became of every sample."""

    found: tuple[Look | Failure, ...]

    @property
    def looks(self) -> list[Look]:
        """Those of the samples that can be used."""
        return [each for each in self.found if isinstance(each, Look)]

    @property
    def usable(self) -> list[int]:
        """The numbers of the samples that can be used."""
        return [index for index, each in enumerate(self.found) if isinstance(each, Look)]

    def doubt(self) -> str:
        """Return how many pictures may have been annotated otherwise than they are read; "" for none."""
        count = sum(look.doubtful for look in self.looks)
        return f"{count} of {len(self.looks)} {MIXED_UP}." if count else ""

    def refuse(self, data: Inspectable) -> None:
        """Raise what is wrong, the first word for word, the others by their number; nothing where nothing is.

        Args:
            data: that was inspected.

        Raises:
            OSError: the first picture that cannot be used does not decode.
            ValueError: it does not fit its annotation.
        """
        mistakes = Mistakes()
        for index, each in enumerate(self.found):
            if isinstance(each, Failure):
                mistakes.add(data.files(index)[0].name, each.error())
        mistakes.refuse()


def inspect(data: Inspectable, progress: Progress | None = None) -> Inspection:
    """Decode every sample once.

    Args:
        data: the data set.
        progress: called with how many samples were looked at, and how many there are.

    Returns:
        What was found. Samples whose files have not changed since an earlier inspection are not decoded again.
    """
    cache = LookCache(data) if len(data) >= FEW else None
    known = cache.read() if cache else {}
    found: dict[int, Look | Failure] = dict(known)
    rest = [index for index in range(len(data)) if index not in found]
    if progress:
        progress(len(found), len(data))
    for pairs in _looked(data, rest):
        found.update(pairs)
        if progress:
            progress(len(found), len(data))
    if cache and len(rest) >= FEW:
        cache.write({index: each for index, each in found.items() if isinstance(each, Look)})
    return Inspection(tuple(found[index] for index in range(len(data))))


def check_files(data: Inspectable, progress: Progress | None = None) -> Inspection:
    """Decode every sample once, and refuse a data set some of whose samples cannot be used.

    Args:
        data: the data set.
        progress: as of `inspect`.

    Returns:
        What was found. Pictures whose EXIF orientation nothing decides were warned of, once.
    """
    inspection = inspect(data, progress)
    inspection.refuse(data)
    doubt = inspection.doubt()
    if doubt:
        warnings.warn(f"{data.where}: {doubt}", stacklevel=3)
    return inspection


class _Looks(Dataset[tuple[int, Look | Failure]]):
    """Looks by place in a list of samples."""

    def __init__(self, data: Inspectable, indices: Sequence[int]) -> None:
        self._data = data
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> tuple[int, Look | Failure]:
        index = self._indices[place]
        try:
            return index, self._data.look(index)
        except (OSError, ValueError) as error:
            return index, Failure(str(error), isinstance(error, OSError))


def _looked(data: Inspectable, indices: Sequence[int]) -> DataLoader[tuple[int, Look | Failure]]:
    """Batches of what was found, from as many processes as there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return DataLoader(
        _Looks(data, indices),
        batch_size=32,
        collate_fn=list,
        num_workers=cores if len(indices) >= FEW else 0,
        worker_init_fn=live_for_the_loop,
    )
