"""Both splits of a data set before training: what is broken, what is odd, and what of one is in the other."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal, Protocol, Self, TypeVar

from headwise.data.annotation import Picture
from headwise.data.checks.inspection import Failure, Inspection, Progress, inspect
from headwise.data.checks.look_cache import Inspectable
from headwise.data.checks.oddities import NOTABLE, Oddity
from headwise.data.checks.skipping import Skipping
from headwise.data.pictures import Look

Broken = Literal["refuse", "skip"]


class CheckedDataset(Inspectable, Protocol):
    """A data set of files that can judge itself."""

    def __getitem__(self, index: int, /) -> Picture[Any]:
        """Return picture number `index`."""
        ...

    def select(self, indices: Sequence[int]) -> Self:
        """Return some of the pictures."""
        ...

    def objects_by_class(self) -> dict[tuple[int, str], int]:
        """Return how many objects there are of each class, by its number and name; empty where there are no classes."""
        ...

    def oddities(self, looks: Sequence[Look]) -> list[Oddity]:
        """Return what cannot be meant, given a look at each picture."""
        ...


D = TypeVar("D", bound=CheckedDataset)


def check_splits(
    train: D, held_out: D, *, broken: Broken = "refuse", progress: Progress | None = None
) -> tuple[D | Skipping[Any], D]:
    """Look at every picture of both splits, and tell what a training on them would suffer from, once, with a count.

    Of several processes that share a training, only the first looks.

    Args:
        train: to train on.
        held_out: to score.
        broken: "refuse" a picture that cannot be used; or "skip" it: training pictures are not looked at now, but left
            out where they are met, and counted at the end; held-out ones are left out, and counted, now.
        progress: called with the number of pictures of a split that were looked at, and of all.

    Returns:
        The pictures to train on, and those to score, which are as many in every process.

    Raises:
        OSError: a picture does not decode.
        ValueError: a picture does not fit its annotation, or nothing can be learned from the data.
    """
    if os.environ.get("RANK", "0") != "0" and broken == "refuse":
        return train, held_out
    second = inspect(held_out, progress)
    if broken == "skip":
        held_out, second = _usable(held_out, second)
        return Skipping(train), held_out
    first = inspect(train, progress)
    for data, inspection in ((train, first), (held_out, second)):
        inspection.refuse(data)
    found = [*judge(train, first), *judge(held_out, second), *compare(train, held_out, first, second)]
    for oddity in found:
        if oddity.hopeless:
            raise ValueError(oddity.text)
    for oddity in found:
        warnings.warn(oddity.text, stacklevel=2)
    return train, held_out


def judge(data: CheckedDataset, inspection: Inspection) -> list[Oddity]:
    """Return what is to be told of the pictures of a split that can be used.

    Args:
        data: the split.
        inspection: of it.

    Returns:
        What cannot be meant, or may be meant otherwise.
    """
    used = data if len(inspection.usable) == len(data) else data.select(inspection.usable)
    doubt = inspection.doubt()
    told = [Oddity(doubt)] if doubt else []
    told += used.oddities(inspection.looks) if inspection.usable else []
    return [each._replace(text=f"{data.where}: {each.text}") for each in told]


def compare(train: CheckedDataset, held_out: CheckedDataset, first: Inspection, second: Inspection) -> list[Oddity]:
    """Return what is to be told of both splits together.

    Args:
        train: to train on.
        held_out: to score.
        first: of `train`.
        second: of `held_out`.

    Returns:
        Classes that differ or that nothing trains, and pictures that are in both, whatever they are called.
    """
    return [*_classes(train, held_out), *_shared(train, held_out, first, second)]


def _classes(train: CheckedDataset, held_out: CheckedDataset) -> list[Oddity]:
    trained, scored = train.objects_by_class(), held_out.objects_by_class()
    differing = sorted(trained.keys() ^ scored.keys())
    if differing:
        listed = ", ".join(f"{number} {name!r}" for number, name in differing[:6])
        text = (
            f"{held_out.where}: its categories are not those of {train.where}: one of both alone has {listed}"
            f"{', ...' if len(differing) > 6 else ''}. List the same, by number and name."
        )
        return [Oddity(text, hopeless=True)]
    unseen = {name: count for (number, name), count in scored.items() if count and not trained[number, name]}
    if sum(unseen.values()) <= NOTABLE * sum(scored.values()):
        return []
    listed = ", ".join(map(repr, list(unseen)[:6])) + (", ..." if len(unseen) > 6 else "")
    text = (
        f"{held_out.where}: {sum(unseen.values())} of {sum(scored.values())} held-out objects are of classes of which "
        f"no training picture shows one, so that they are never found: {listed}. Annotate some in {train.where}."
    )
    return [Oddity(text)]


def _shared(train: CheckedDataset, held_out: CheckedDataset, first: Inspection, second: Inspection) -> list[Oddity]:
    trained = {look.digest: index for index, look in enumerate(first.found) if isinstance(look, Look)}
    pairs = [
        (index, trained[look.digest])
        for index, look in enumerate(second.found)
        if isinstance(look, Look) and look.digest in trained
    ]
    if not pairs:
        return []
    here, there = (data.files(index)[0] for data, index in zip((held_out, train), pairs[0], strict=True))
    text = (
        f"{held_out.where}: {len(pairs)} of {len(held_out)} held-out pictures are training pictures too, the same "
        f"content: {here} and {there}. Scores on them say nothing of new pictures; leave them out of one split."
    )
    return [Oddity(text)]


def _usable(data: D, inspection: Inspection) -> tuple[D, Inspection]:
    """Leave out what cannot be used, and say how much that is."""
    left_out = len(data) - len(inspection.usable)
    if not inspection.usable:
        inspection.refuse(data)
    if left_out:
        first = next(each for each in inspection.found if isinstance(each, Failure))
        warnings.warn(
            f"{left_out} of {len(data)} held-out pictures are broken and left out, the first: {first.message}",
            stacklevel=3,
        )
        data = data.select(inspection.usable)
    return data, Inspection(tuple(inspection.looks))
