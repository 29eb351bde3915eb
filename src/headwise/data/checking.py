"""Both splits of a data set before training: what is broken, what is odd, and what of one is in the other."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Literal, Protocol, Self, TypeVar

from headwise.data.inspection import Inspection, Progress, inspect, warn_of_orientations
from headwise.data.look_cache import Inspectable
from headwise.data.oddities import Oddity
from headwise.data.pictures import Look

Broken = Literal["refuse", "skip"]


class CheckedDataset(Inspectable, Protocol):
    """A data set of files that can judge itself."""

    def select(self, indices: Sequence[int]) -> Self:
        """Return some of the pictures."""
        ...

    def oddities(self, looks: Sequence[Look]) -> list[Oddity]:
        """Return what cannot be meant, given a look at each picture."""
        ...


D = TypeVar("D", bound=CheckedDataset)


def check_splits(train: D, held_out: D, *, progress: Progress | None = None) -> None:
    """Look at every picture of both splits, and tell what a training on them would suffer from, once, with a count.

    Of several processes that share a training, only the first looks.

    Args:
        train: to train on.
        held_out: to score.
        progress: called with the number of pictures of a split that were looked at, and of all.

    Raises:
        OSError: a picture does not decode.
        ValueError: a picture does not fit its annotation, nothing can be learnt from the data, or the splits are the
            same.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    found = []
    for data in (train, held_out):
        inspection = inspect(data, progress)
        inspection.refuse(data)
        warn_of_orientations(data, inspection)
        tell_oddities(data, inspection)
        found.append(inspection)
    _tell_shared(train, held_out, *found)


def tell_oddities(data: CheckedDataset, inspection: Inspection) -> None:
    """Warn of what cannot be meant.

    Args:
        data: of which every picture can be used.
        inspection: of it.

    Raises:
        ValueError: nothing can be learnt from it.
    """
    for oddity in data.oddities(inspection.looks):
        text = f"{data.where}: {oddity.text}"
        if oddity.hopeless:
            raise ValueError(text)
        warnings.warn(text, stacklevel=3)


def _tell_shared(train: CheckedDataset, held_out: CheckedDataset, first: Inspection, second: Inspection) -> None:
    """Tell of pictures that are in both splits, whatever they are called."""
    trained = {look.digest: index for index, look in enumerate(first.looks)}
    shared = [(index, trained[look.digest]) for index, look in enumerate(second.looks) if look.digest in trained]
    if not shared:
        return
    here, there = (data.files(index)[0] for data, index in zip((held_out, train), shared[0], strict=True))
    text = (
        f"{held_out.where}: {len(shared)} of {len(held_out)} held-out pictures are training pictures too, the same "
        f"bytes: {here} and {there}. Scores on them say nothing of new pictures; leave them out of one split."
    )
    if len(shared) == len(held_out):
        raise ValueError(text)
    warnings.warn(text, stacklevel=3)
