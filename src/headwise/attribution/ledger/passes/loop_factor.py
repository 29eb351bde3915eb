"""What the loop multiplies its losses by, as its caller gives it where nobody can see it: in the pass, not later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Scaler = Any
"""What knows the loss scale: a GradScaler (``get_scale()``), a number, or a function that returns one."""


def given_factor(scaler: Scaler, device: torch.device) -> float | Tensor | None:
    """The loop's factor as its caller gives it.

    Args:
        scaler: See `Scaler`; or None.
        device: Where the loss is.

    Returns:
        The factor now, of a GradScaler as a tensor that nobody waits for; None where none is given.
    """
    if scaler is None:
        return None
    if hasattr(scaler, "get_scale") and hasattr(scaler, "scale"):
        found: Tensor = scaler.scale(torch.ones((), device=device))
        return found.detach()
    get: Callable[[], float] | None = getattr(scaler, "get_scale", None)
    return float(get() if get is not None else scaler() if callable(scaler) else scaler)


def watch_scaler(scaler: Any, step: Callable[[], None]) -> Callable[[], None]:
    """Marks a step where a GradScaler updates, since it does so after a step that it skipped too.

    Args:
        scaler: A GradScaler, or anything else.
        step: What marks.

    Returns:
        What ends it.
    """
    if not (hasattr(scaler, "get_scale") and hasattr(scaler, "update")):
        return lambda: None
    update = scaler.update

    def marking(*arguments: Any, **named: Any) -> None:
        update(*arguments, **named)
        step()

    scaler.update = marking
    return lambda: delattr(scaler, "update")
