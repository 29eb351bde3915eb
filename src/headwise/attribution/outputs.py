"""From a path that somebody gave to the outputs that it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from headwise.criterion.terms.paths import Path, Slice, expand, parse
from headwise.structure import by_path, get, leaves, spell


def resolve(text: str, structure: Any, what: str, alone: Sequence[str] = ("output",)) -> list[tuple[str, Slice | None]]:
    """The outputs that a path names.

    Args:
        text: Such as ``maps[:, 4]`` or ``stacks[*].heatmap``.
        structure: The outputs.
        what: Where the path was given, for the message.
        alone: What a single tensor may be called.

    Returns:
        Per place its path and the slice of channels.

    Raises:
        ValueError: The path is none, or leads nowhere.
    """
    if isinstance(structure, Tensor) and text.strip() in ("", *alone):
        return [("output", None)]
    tensors = by_path(structure)
    try:
        path = parse(text)
        if isinstance(structure, Tensor) and path.steps not in ((), *((name,) for name in alone)):
            raise ValueError(f"the network returned one tensor, which is called {' or '.join(map(repr, alone))}")
        found = _named(path, structure)
        if path.channels is not None:
            for name in found:
                path.channels.bounds(tensors[name])
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{what}: path {text!r}: {error.args[0]}") from None
    return [(name, path.channels) for name in found]


def _named(path: Path, structure: Any) -> list[str]:
    """The tensors at or below a path."""
    if isinstance(structure, Tensor):
        return ["output"]
    places = expand(path, structure).values()
    return [name for steps in places for name, _ in leaves(get(structure, steps), spell(steps))]
