"""Data of one's own, for every recipe: which splits, read and looked at before the first step."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeVar, cast

from headwise.recipes.configuration import Configuration

C = TypeVar("C", bound=Configuration)


class OwnData(Protocol):
    """What a recipe's configuration says of data of one's own."""

    @property
    def broken_pictures(self) -> Literal["refuse", "skip"]:
        """What becomes of pictures that cannot be used."""
        ...

    def name_splits(self) -> tuple[str, str]:
        """Return the splits to train on and to hold out."""
        ...

    def read_split(self, split: str) -> Any:
        """Return the pictures of a split, not yet looked at."""
        ...


_MANY = 2000  # pictures from which a look at them takes so long that it is shown


def with_splits(configuration: C) -> C:
    """Fill in which splits are trained on and held out, so that a run that is resumed has the same.

    Args:
        configuration: of a run that is about to start.

    Returns:
        The same with ``train_split`` and ``held_out_split``, where the data are one's own.
    """
    if not configuration.has_own_data:
        return configuration
    train, held_out = cast(OwnData, configuration).name_splits()
    return replace(configuration, train_split=train, held_out_split=held_out)


def open_splits(configuration: OwnData) -> tuple[Any, Any]:
    """Read the pictures to train on and those to hold out, and look at them.

    Args:
        configuration: of the run.

    Returns:
        Two data sets.

    Raises:
        OSError: data cannot be read.
        ValueError: bad data.
    """
    from headwise.data.checks.splits import check_splits

    train, held_out = (configuration.read_split(split) for split in configuration.name_splits())
    return check_splits(train, held_out, broken=configuration.broken_pictures, progress=show_progress)


def show_progress(done: int, total: int) -> None:
    """Say how far a look at many pictures is, ten times.

    Args:
        done: pictures that were looked at.
        total: of a split.
    """
    if total >= _MANY and done * 10 // total != max(done - 32, 0) * 10 // total:
        sys.stderr.write(f"looked at {done} of {total} pictures\n")
