"""What every augmentation asks of its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headwise.whole import is_whole


def check_options(augmentation: str, **options: tuple[Any, bool, str]) -> None:
    """Refuse an option out of its range.

    Args:
        augmentation: its name, for the message.
        options: what was given, whether it fits, and the rule.

    Raises:
        ValueError: one does not fit.
    """
    for name, (value, fits, rule) in options.items():
        if not fits:
            raise ValueError(f"{augmentation}: {name} must be {rule}, found {value!r}.")


def share(value: float) -> tuple[float, bool, str]:
    """A probability or another part of a whole, for `check_options`."""
    return value, 0 <= value <= 1, "in [0, 1]"


def pixels(value: int) -> tuple[int, bool, str]:
    """A size, for `check_options`."""
    return value, is_whole(value, 1), "a whole number of pixels, at least 1"


def amount(value: float) -> tuple[float, bool, str]:
    """What is 0 or more, for `check_options`."""
    return value, 0 <= value < float("inf"), "at least 0 and finite"


def factors(values: Sequence[float]) -> tuple[Sequence[float], bool, str]:
    """What one is drawn of to multiply sizes by, for `check_options`."""
    return values, len(values) > 0 and all(0 < each < float("inf") for each in values), "one or more positive numbers"
