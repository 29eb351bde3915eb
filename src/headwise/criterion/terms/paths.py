"""Binding paths: how a term names a tensor inside a nested structure of outputs or targets.

A path is written as one would index the structure in Python, without quotes around plain keys::

    maps                    a key of a dict, a field of a dataclass or of a named tuple
    stacks[0].heatmap       an index of a list or tuple, then a key
    stacks[*].heatmap       every stack: one level each
    maps[:, 0:2]            channels 0 and 1 (dimension 1 is kept)
    maps[:, 4]              channel 4 (dimension 1 is dropped)
    deltas[..., 0:2]        a slice of the last dimension
    ['odd key'].x           a key that is no identifier, quoted as in Python
    [(1, 2)], [Part.HEAD]   a key that is no text: as it prints, a member of an Enum by its name

One place has one spelling in every table (`headwise.structure.join`), however a path writes it: of two, ``x[-1]`` is
``x[1]``, and ``x.0`` is ``x[0]``.
"""

from __future__ import annotations

import ast
import enum
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from torch import Tensor

from headwise.structure import BRACKET, Spelled, Steps, child, children, describe, is_spelled, join, spell


class _Wildcard(enum.Enum):
    ALL = "*"


WILDCARD: Final = _Wildcard.ALL
"""The step ``[*]``: every part, one level each."""

Step = str | int | Spelled | Literal[_Wildcard.ALL]

_NAME = re.compile(r"\.?([^\W\d]\w*|\d+)")
_CHANNELS = re.compile(r"^(:|\.\.\.)\s*,\s*(-?\d*)\s*(:?)\s*(-?\d*)$")


@dataclass(frozen=True)
class Slice:
    """A slice of one dimension of a tensor.

    Args:
        dim: 1 for ``[:, a:b]``, -1 for ``[..., a:b]``.
        start: First index, or None for the beginning; negative counts from the end.
        stop: One past the last index, or None for the end.
        keep: False if one index was given: the dimension is dropped.
    """

    dim: int
    start: int | None
    stop: int | None
    keep: bool = True

    def __str__(self) -> str:
        """As a path ends with it."""
        where = ":" if self.dim == 1 else "..."
        if not self.keep:
            return f"[{where}, {self.start}]"
        start, stop = ("" if bound is None else bound for bound in (self.start, self.stop))
        return f"[{where}, {start}:{stop}]"

    def bounds(self, tensor: Tensor) -> tuple[int, int]:
        """First and one-past-last index on `tensor`.

        Raises:
            IndexError: The tensor lacks the dimension, or the slice leaves it or is empty.
        """
        if tensor.dim() < 2:
            raise IndexError(f"a tensor of shape {tuple(tensor.shape)} has no dimension {self.dim} to slice")
        size = tensor.shape[self.dim]
        start = 0 if self.start is None else self.start + size * (self.start < 0)
        stop = size if self.stop is None else self.stop + size * (self.stop < 0)
        if not self.keep and self.start == -1:
            stop = size
        if not 0 <= start < stop <= size:
            raise IndexError(f"the slice needs channels {start} to {stop - 1}; the tensor has {size}")
        return start, stop


@dataclass(frozen=True)
class Path:
    """A parsed path: keys and indices from the root, then perhaps a slice of channels."""

    text: str
    steps: tuple[Step, ...]
    channels: Slice | None = None

    @property
    def num_wildcards(self) -> int:
        """How many ``[*]`` the path holds."""
        return sum(step is WILDCARD for step in self.steps)

    def __str__(self) -> str:
        """The path as it was written."""
        return self.text


@lru_cache(maxsize=4096)
def parse(text: str) -> Path:
    """Parses a path.

    Args:
        text: The path, as in the module's description.

    Returns:
        The parsed path.

    Raises:
        ValueError: The text is not a path.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"a path is a non-empty text such as 'maps[:, 0:2]'; found {text!r}")
    text = text.strip()
    steps: list[Step] = []
    channels: Slice | None = None
    position = 0
    while position < len(text):
        if channels is not None:
            raise ValueError(f"path {text!r}: a slice of channels ends a path; found {text[position:]!r} behind it")
        bracket = BRACKET.match(text, position)
        name = None if bracket else _NAME.match(text, position)
        if bracket:
            step = _bracket(text, bracket.group(1))
            if isinstance(step, Slice):
                channels = step
            else:
                steps.append(step)
            position = bracket.end()
        elif name and (position == 0) != text.startswith(".", position):
            steps.append(name.group(1))
            position = name.end()
        else:
            raise ValueError(
                f"path {text!r}: cannot read {text[position:]!r}. "
                "A path is keys, [indices], [*] and one final slice such as [:, 0:2]"
            )
    return Path(text, tuple(steps), channels)


def _bracket(text: str, inside: str) -> Step | Slice:
    """What one pair of brackets says: a key, an index, the wildcard or a slice of channels."""
    if inside == WILDCARD.value:
        return WILDCARD
    if re.fullmatch(r"-?\d+", inside):
        return int(inside)
    match = _CHANNELS.match(inside)
    if match:
        where, start, colon, stop = match.groups()
        first, last = (int(start) if start else None), (int(stop) if stop else None)
        if colon:
            return Slice(1 if where == ":" else -1, first, last)
        if first is not None and last is None:
            return Slice(1 if where == ":" else -1, first, first + 1, keep=False)
    key = _key(inside)
    if key is None:
        raise ValueError(
            f"path {text!r}: cannot read [{inside}]. Write an index [0], all levels [*], a key ['a b'], "
            "channels [:, 0:2] or [:, 4], or a slice of the last dimension [..., 0:2]"
        )
    return key


def _key(inside: str) -> str | Spelled | None:
    """A key in quotes, or one that is no text; None where it is neither."""
    if inside[:1] not in ("'", '"'):
        return Spelled(inside) if is_spelled(inside) else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # a backslash that escapes nothing stands for itself
            key = ast.literal_eval(inside)
    except (SyntaxError, ValueError):
        return None
    return key if isinstance(key, str) else None


Level = tuple[str | int, ...]
"""What tells a place from the others that a path names: per wildcard the key there, an index where it is digits."""


def expand(path: Path, structure: Any, *, where_there: bool = False) -> dict[Level, Steps]:
    """All places that a path names in a structure.

    Args:
        path: The path, with any number of wildcards.
        structure: The nested outputs or targets.
        where_there: Leave out parts that lack one of the path's steps.

    Returns:
        For each combination of keys at the wildcards (the empty tuple where there is none) the steps to the place, in
        the structure's order and by its own keys.

    Raises:
        KeyError: A step does not exist; the message lists what there is.
    """
    found: dict[Level, tuple[Steps, Any]] = {(): ((), structure)}
    for step in path.steps:
        deeper: dict[Level, tuple[Steps, Any]] = {}
        for before, (above, node) in found.items():
            try:
                deeper |= {level: (steps, part) for level, steps, part in _step(before, above, node, step)}
            except KeyError:
                if not where_there:
                    raise
        found = deeper
    return {level: steps for level, (steps, _) in found.items()}


def _step(level: Level, steps: Steps, node: Any, step: Step) -> Iterator[tuple[Level, Steps, Any]]:
    """Where one step leads from one node."""
    if step is not WILDCARD:
        key, part = child(node, step)
        yield level, (*steps, key), part
        return
    parts = children(node)
    if parts is None:
        raise KeyError(f"[*] needs a list, tuple or dict of levels at {spell(steps)!r}; found {describe(node)}.")
    for key, part in parts.items():
        yield (*level, _level_key(key)), (*steps, key), part


def _level_key(key: Any) -> str | int:
    name = key if isinstance(key, str | int) and not isinstance(key, bool | enum.Enum) else join("", key)
    return int(name) if isinstance(name, str) and name.isascii() and name.isdigit() else name


def level_name(path: Path, steps: Steps) -> str:
    """The part of a place up to the path's last wildcard, which tells its level from the others.

    Args:
        path: A path with a wildcard.
        steps: One of the places that `expand` found for it.

    Returns:
        A path, such as ``stacks[0]`` for ``stacks[*].heatmap``.
    """
    last = max(place for place, step in enumerate(path.steps) if step is WILDCARD)
    return spell(steps[: last + 1])
