"""What the loop multiplies its losses by, as its caller gives it where nobody can see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Scaler = Any
"""What knows the loss scale: a GradScaler (``get_scale()``), a number, or a function that returns one."""


def given_factor(scaler: Scaler) -> float | None:
    """The loop's factor as its caller gives it.

    Args:
        scaler: See `Scaler`; or None.

    Returns:
        The factor now; None where none is given.
    """
    if scaler is None:
        return None
    get: Callable[[], float] | None = getattr(scaler, "get_scale", None)
    if get is not None:
        return float(get())
    return float(scaler() if callable(scaler) else scaler)
