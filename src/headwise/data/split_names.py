"""What folders and files of splits are called by the tools that export them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

Role = Literal["train", "val", "test"]

_WORDS: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation", "heldout", "holdout"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}


def role_of(name: str) -> Role | None:
    """Return what a split of this name is for: ``train2017`` to train, ``Validation`` and ``held_out`` to validate.

    Args:
        name: of a folder, or of a file without its ending.

    Returns:
        Its role; None if the name holds no word for one, or words for two.
    """
    lower = re.sub(r"h(e?l|o)d[_\- ]?out", "heldout", name.lower())
    roles = {_WORDS[word] for word in re.split(r"[^a-z]+", lower) if word in _WORDS}
    return roles.pop() if len(roles) == 1 else None


def contradict(name: str, other: str) -> bool:
    """Return whether two names stand for different splits."""
    first, second = role_of(name), role_of(other)
    return first is not None and second is not None and first != second


def choose_splits(names: Sequence[str], train: str | None, held_out: str | None, where: Path) -> tuple[str, str]:
    """Return the split to train on and the one to hold out.

    Args:
        names: of the splits that are there.
        train: the one that was named; None to look for the usual names.
        held_out: likewise: a split to validate before one to test.
        where: the data set, for the error.

    Returns:
        Two names.

    Raises:
        ValueError: there is no usual name, or several, or the two are one.
    """
    pairs = [
        (first, second)
        for first in _candidates(names, train, ("train",), held_out)
        for second in _candidates(names, held_out, ("val", "test"), train)
    ]
    alike = [pair for pair in pairs if _stem_digits(pair[0]) == _stem_digits(pair[1])]
    best = pairs if len(pairs) == 1 else alike
    if len(best) != 1:
        found = ", ".join(map(repr, names)) or "none"
        raise ValueError(
            f"{where}: it cannot be told which split to train on and which to hold out; the splits found are: "
            f"{found}. Name them with --train and --held-out (train_split and held_out_split in Python)."
        )
    if best[0][0] == best[0][1]:
        raise ValueError(
            f"{where}: split {best[0][0]!r} is to be trained on and held out both, and a score on pictures that were "
            "trained on says nothing. Name another with --held-out (held_out_split in Python)."
        )
    return best[0]


def name_folders(
    data: str | None,
    list_splits: Callable[[Path], list[str]],
    train: str | None,
    held_out: str | None,
    usual: tuple[str, str],
) -> tuple[str, str]:
    """Return the split to train on and the one to hold out, where each is a folder.

    Args:
        data: the folder of the data set; None where both splits are folders of their own.
        list_splits: the names of the splits in it.
        train: a split or its folder; None to look for the usual names.
        held_out: likewise.
        usual: what is looked for where nothing is found, and then missed.

    Returns:
        Two names.

    Raises:
        ValueError: the splits cannot be told, or are one.
    """
    root = Path(data or ".")
    names = list_splits(root)
    if not names and train is None and held_out is None:
        return usual
    return choose_splits(names, train, held_out, root)


def _candidates(names: Sequence[str], given: str | None, roles: Sequence[Role], other: str | None) -> list[str]:
    """The split that was named, or all of the first role that there is one of."""
    if given is not None:
        return [given]
    for role in roles:
        found = [name for name in names if role_of(name) == role and name != other]
        if found:
            return found
    return []


def _stem_digits(name: str) -> str:
    return "".join(re.findall(r"\d+", name))
