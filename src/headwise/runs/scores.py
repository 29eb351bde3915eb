"""What a loop hands to its run, as plain data: steps, scores, rates and settings, of Python, NumPy or torch."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Rate: TypeAlias = "float | Sequence[float] | Tensor | None"
"""A learning rate as loops hold it."""
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
    found = _number(score)
    if found is None:
        raise ValueError(
            f"runs.Run.evaluate: {where} is no number, found {type(score).__name__} {str(score)[:60]!r}. Give one "
            "number a name."
        )
    return found


def _number(given: Any) -> int | float | None:
    """A number of Python, NumPy or torch as one of Python; None where it is none, or several."""
    try:
        found = given if isinstance(given, int | float) else given.item()
    except (AttributeError, ValueError, RuntimeError, TypeError):
        return None
    return found if isinstance(found, int | float) else None


def plain_rate(rate: Any, where: str) -> float | None:
    """Returns a learning rate as a number of Python.

    Args:
        rate: A number, or the list of the groups' that a scheduler's ``get_last_lr()`` gives: the first counts.
        where: Who was called, for the error.

    Returns:
        The number; None for None.

    Raises:
        ValueError: It is none.
    """
    first = rate[0] if isinstance(rate, list | tuple) and rate else rate
    found = None if isinstance(first, bool) else _number(first)
    if first is not None and found is None:
        raise ValueError(
            f"{where}: learning_rate is a number, or scheduler.get_last_lr(); found {type(rate).__name__} "
            f"{str(rate)[:60]!r}."
        )
    return None if found is None else float(found)


def plain_settings(config: Any) -> dict[str, Any]:
    """Returns what a run depends on as data that JSON can say.

    Args:
        config: A mapping, a dataclass, or an object with attributes, as `argparse` makes them; None for nothing.

    Returns:
        The same by name; what JSON has no word for is text.

    Raises:
        ValueError: It has no names, or it holds itself.
    """
    names = _named({} if config is None else config)
    if names is None:
        raise ValueError(
            f"runs.Run: config is a dict, a dataclass or a Namespace; found {type(config).__name__} "
            f"{str(config)[:60]!r}. Give each setting a name."
        )
    try:
        found = _sayable(names)
        json.dumps(found)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"runs.Run: config cannot be written ({error}). Give what the run depends on alone.") from None
    assert isinstance(found, dict)
    return found


def _named(given: Any) -> Mapping[Any, Any] | None:
    if isinstance(given, Mapping):
        return given
    if is_dataclass(given) and not isinstance(given, type):
        return {each.name: getattr(given, each.name) for each in fields(given)}
    return None if callable(given) or isinstance(given, ModuleType | PurePath) else getattr(given, "__dict__", None)


def _sayable(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping) or (is_dataclass(value) and not isinstance(value, type)):
        return {str(name): _sayable(each) for name, each in (_named(value) or {}).items()}
    if isinstance(value, list | tuple):
        return [_sayable(each) for each in value]
    number = _number(value)
    return str(value) if number is None else number
