"""What a loop hands to its run, as plain data: steps and scores, which come as numbers of Python, NumPy or torch."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

ALONE = "scores"
"""The measure of numbers that stand alone."""
_BESIDE = ("num_images",)
"""Says of how much the measures are."""


def whole_step(step: Any, where: str) -> int:
    """Returns a step as a number of Python.

    Args:
        step: as the loop counts it.
        where: who was called, for the error.

    Returns:
        The number.

    Raises:
        ValueError: it is no whole number from 0.
    """
    try:
        found = -1 if isinstance(step, bool) else operator.index(step)
    except TypeError:
        found = -1
    if found < 0:
        raise ValueError(f"{where}: a step is a whole number from 0, found {step!r}. Give the optimizer steps done.")
    return found


def plain_scores(scores: Any) -> dict[str, Any]:
    """Returns scores as measures by name, each with its numbers, or rows of numbers, by name.

    Args:
        scores: as they were measured.

    Returns:
        The same as plain data; numbers that stand alone are those of the measure "scores".

    Raises:
        ValueError: it is no mapping, a score is no number, or a measure is called "step".
    """
    if not isinstance(scores, Mapping):
        raise ValueError(f"runs.Run.evaluate: scores are a dict of measures, found {type(scores).__name__}.")
    found: dict[str, Any] = {}
    for name, score in scores.items():
        if name == "step":
            raise ValueError("runs.Run.evaluate: no measure is called 'step': the log keeps the step there. Rename it.")
        if isinstance(score, Mapping) or name in _BESIDE:
            found[str(name)] = _plain(score, str(name))
        else:
            found.setdefault(ALONE, {})[str(name)] = _plain(score, str(name))
    return found


def _plain(score: Any, where: str) -> Any:
    if isinstance(score, Mapping):
        return {str(name): _plain(each, f"{where}.{name}") for name, each in score.items()}
    if score is None or isinstance(score, bool | int | float):
        return score
    try:
        found = score.item()  # of NumPy or torch, where it is one number
    except (AttributeError, ValueError, RuntimeError, TypeError):
        found = None
    if not isinstance(found, int | float):
        raise ValueError(
            f"runs.Run.evaluate: {where} is no number, found {type(score).__name__} {str(score)[:60]!r}. Give one "
            "number a name."
        )
    return found
