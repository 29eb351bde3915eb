"""Whole numbers and sizes as users give them: what serves as one, and what is said of anything else."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, TypeGuard


def is_whole(given: Any, least: float = -math.inf) -> TypeGuard[int]:
    """Whether a value is a whole number of at least some other: no truth value, no text, and no float.

    Args:
        given: What a user gave; whole numbers of NumPy and tensors of one serve.
        least: The least that fits.

    Returns:
        Whether it is one.
    """
    if isinstance(given, bool) or str(getattr(given, "dtype", "")).endswith("bool"):
        return False
    try:
        return operator.index(given) >= least
    except TypeError:
        return False


def check_whole(where: str, least: int = 1, /, **given: Any) -> None:
    """Asks for whole numbers of at least some other.

    Args:
        where: Who was called, for the message.
        least: The least that fits.
        given: What was given, by name.

    Raises:
        ValueError: One is no such number.
    """
    for name, each in given.items():
        if not is_whole(each, least):
            kind = "" if is_whole(each) else " and a whole number"
            raise ValueError(f"{where}: {name} is at least {least}{kind}, found {each!r}.")


def check_size(where: str, **given: Any) -> None:
    """Asks for heights and widths.

    Args:
        where: Who was called, for the message.
        given: What was given, by name.

    Raises:
        ValueError: One is no pair of whole numbers of at least 1.
    """
    for name, each in given.items():
        sides = list(each) if isinstance(each, Iterable) and not isinstance(each, str) else []
        if len(sides) != 2 or not all(is_whole(side, 1) for side in sides):
            kind = "" if sides and all(map(is_whole, sides)) else " and whole numbers"
            raise ValueError(f"{where}: {name} is (height, width), both at least 1{kind}, found {each!r}.")
