"""Binding paths: how a term names a tensor inside a nested structure of outputs or targets.

A path is written as one would index the structure in Python, without quotes around plain keys::

    maps                    a key of a dict, a field of a dataclass or of a named tuple
    stacks[0].heatmap       an index of a list or tuple, then a key
    stacks[*].heatmap       every stack: one level each
    maps[:, 0:2]            channels 0 and 1 (dimension 1 is kept)
    maps[:, 4]              channel 4 (dimension 1 is dropped)
    deltas[..., 0:2]        a slice of the last dimension
    ['odd key'].x           a key that is no identifier
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache, reduce
from typing import Any

from torch import Tensor

WILDCARD = "*"

_NAME = re.compile(r"\.?([^\W\d]\w*|\d+)")
_BRACKET = re.compile(r"\[\s*([^\[\]]*?)\s*\]")
_QUOTED = re.compile(r"""^(['"])(.*)\1$""")
_CHANNELS = re.compile(r"^(:|\.\.\.)\s*,\s*(-?\d*)\s*(:?)\s*(-?\d*)$")


@dataclass(frozen=True)
class Channels:
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
    steps: tuple[str | int, ...]
    channels: Channels | None = None

    @property
    def num_wildcards(self) -> int:
        """How many ``[*]`` the path holds."""
        return sum(step == WILDCARD for step in self.steps)

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
    steps: list[str | int] = []
    channels: Channels | None = None
    position = 0
    while position < len(text):
        if channels is not None:
            raise ValueError(f"path {text!r}: a slice of channels ends a path; found {text[position:]!r} behind it")
        bracket = _BRACKET.match(text, position)
        name = None if bracket else _NAME.match(text, position)
        if bracket:
            step = _bracket(text, bracket.group(1))
            if isinstance(step, Channels):
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


def _bracket(text: str, inside: str) -> str | int | Channels:
    """What one pair of brackets says: a key, an index, the wildcard or a slice of channels."""
    if inside == WILDCARD:
        return WILDCARD
    if re.fullmatch(r"-?\d+", inside):
        return int(inside)
    quoted = _QUOTED.match(inside)
    if quoted:
        return quoted.group(2)
    match = _CHANNELS.match(inside)
    if match:
        where, start, colon, stop = match.groups()
        first, last = (int(start) if start else None), (int(stop) if stop else None)
        if colon:
            return Channels(1 if where == ":" else -1, first, last)
        if first is not None and last is None:
            return Channels(1 if where == ":" else -1, first, first + 1, keep=False)
    raise ValueError(
        f"path {text!r}: cannot read [{inside}]. Write an index [0], all levels [*], a key ['a b'], "
        "channels [:, 0:2] or [:, 4], or a slice of the last dimension [..., 0:2]"
    )


def children(node: Any) -> dict[str | int, Any] | None:
    """The named parts of a structure's node, or None for a leaf."""
    if isinstance(node, Tensor):
        return None
    if isinstance(node, Mapping):
        return dict(node)
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    if is_dataclass(node) and not isinstance(node, type):
        return {field.name: getattr(node, field.name) for field in fields(node)}
    return None


def join(prefix: str, step: str | int) -> str:
    """Appends one step to a concrete path, so that `parse` reads it back."""
    if isinstance(step, int):
        return f"{prefix}[{step}]"
    if not re.fullmatch(r"[^\W\d]\w*|\d+", step):
        return f"{prefix}[{step!r}]"
    return f"{prefix}.{step}" if prefix else step


def leaves(structure: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a structure, with its concrete path, in the structure's order."""
    if isinstance(structure, Tensor):
        yield prefix, structure
        return
    parts = children(structure)
    if parts is not None:
        for step, node in parts.items():
            yield from leaves(node, join(prefix, step))


def child(node: Any, step: str | int) -> Any:
    """One step down a structure.

    Raises:
        KeyError: There is no such key, index or field; the message lists what there is.
    """
    parts = children(node)
    if parts is None:
        raise KeyError(f"nothing can be below {_describe(node)}, but the path goes on with {step!r}.")
    for key in (step, str(step), int(step) if isinstance(step, str) and step.isdigit() else step):
        if key in parts:
            return parts[key]
    if isinstance(step, int) and step < 0 and isinstance(node, list | tuple) and -len(node) <= step:
        return node[step]
    kind = "index" if isinstance(step, int) else "key"
    names = ", ".join(str(key) for key in parts) or "nothing"
    close = difflib.get_close_matches(str(step), [str(key) for key in parts], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise KeyError(f"no {kind} {step!r}. Found: {names}.{hint}")


def get(structure: Any, steps: tuple[str | int, ...]) -> Any:
    """The node that concrete steps lead to."""
    for step in steps:
        structure = child(structure, step)
    return structure


def expand(path: Path, structure: Any) -> dict[tuple[int, ...], tuple[str, tuple[str | int, ...]]]:
    """All concrete places that a path names in a structure.

    Args:
        path: The path, with any number of wildcards.
        structure: The nested outputs or targets.

    Returns:
        For each combination of wildcard positions (the empty tuple where there is no wildcard): the concrete path
        without its channels, and its steps.

    Raises:
        KeyError: A step does not exist; the message lists what there is.
    """
    found: dict[tuple[int, ...], tuple[str, tuple[str | int, ...], Any]] = {(): ("", (), structure)}
    for step in path.steps:
        deeper: dict[tuple[int, ...], tuple[str, tuple[str | int, ...], Any]] = {}
        for level, (prefix, steps, node) in found.items():
            if step == WILDCARD:
                parts = children(node)
                if parts is None:
                    raise KeyError(f"[*] needs a list, tuple or dict of levels at {prefix!r}; found {_describe(node)}.")
                for number, (key, part) in enumerate(parts.items()):
                    deeper[(*level, number)] = (join(prefix, key), (*steps, key), part)
            else:
                deeper[level] = (join(prefix, step), (*steps, step), child(node, step))
        found = deeper
    return {level: (name, steps) for level, (name, steps, _) in found.items()}


def level_name(path: Path, steps: tuple[str | int, ...]) -> str:
    """The part of a concrete place up to the path's last wildcard, which tells its level from the others.

    Args:
        path: A path with a wildcard.
        steps: One of the places that `expand` found for it.

    Returns:
        A concrete path, such as ``stacks[0]`` for ``stacks[*].heatmap``.
    """
    last = max(place for place, step in enumerate(path.steps) if step == WILDCARD)
    return reduce(join, steps[: last + 1], "")


def _describe(node: Any) -> str:
    return f"a tensor of shape {tuple(node.shape)}" if isinstance(node, Tensor) else f"a {type(node).__name__}"
