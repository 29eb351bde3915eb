"""Copies of nested structures, and what was written into them."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from headwise.criterion.paths import Channels as Slice
from headwise.criterion.paths import Path, children, expand, get, join, leaves, parse


def mapped(structure: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with changed tensors; NumPy arrays are copied, anything unknown is handed on.

    Args:
        structure: Dicts, lists, tuples and dataclasses of tensors.
        change: What each tensor becomes.

    Returns:
        The new structure.
    """
    if isinstance(structure, Tensor):
        return change(structure)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(structure, numpy.ndarray):
        return structure.copy()
    if isinstance(structure, MutableMapping):
        twin = copy.copy(structure)
        for key, value in structure.items():
            twin[key] = mapped(value, change)
        return twin
    if isinstance(structure, tuple):
        parts = [mapped(value, change) for value in structure]
        return type(structure)(*parts) if hasattr(structure, "_fields") else tuple(parts)
    if isinstance(structure, list):
        return [mapped(value, change) for value in structure]
    if dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        record: Any = copy.copy(structure)
        for each in dataclasses.fields(structure):
            object.__setattr__(record, each.name, mapped(getattr(structure, each.name), change))
        return record
    return structure


def cloned(structure: Any) -> Any:
    """Clones that keep their graph, so that what is written into them stays with them."""
    return mapped(structure, lambda tensor: tensor.clone())


def copied(structure: Any) -> Any:
    """Copies: leaves of leaves, clones of what has a graph."""

    def twin(tensor: Tensor) -> Tensor:
        if tensor.grad_fn is not None:
            return tensor.clone()
        return tensor.detach().clone().requires_grad_(tensor.requires_grad and tensor.is_leaf)

    return mapped(structure, twin)


def outputs_of(structure: Any) -> dict[str, Tensor]:
    """Every tensor by its path; a single tensor is called "output"."""
    if isinstance(structure, Tensor):
        return {"output": structure}
    return dict(leaves(structure))


def resolve(text: str, structure: Any, what: str) -> list[tuple[str, Slice | None]]:
    """The outputs that a path names.

    Args:
        text: Such as ``maps[:, 4]`` or ``stacks[*].heatmap``.
        structure: The outputs.
        what: Where the path was given, for the message.

    Returns:
        Per place its path and the slice of channels.

    Raises:
        ValueError: The path is none, or leads nowhere.
    """
    if isinstance(structure, Tensor) and text.strip() in ("", "output"):
        return [("output", None)]
    tensors = outputs_of(structure)
    try:
        path = parse(text)
        if isinstance(structure, Tensor) and len(path.steps) > 1:
            raise ValueError("it goes into a structure, but the network returned one tensor")
        found = _named(path, structure, tensors)
        if path.channels is not None:
            for name in found:
                path.channels.bounds(tensors[name])
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"audit: {what}: path {text!r}: {error.args[0]}") from None
    return [(name, path.channels) for name in found]


def _named(path: Path, structure: Any, tensors: dict[str, Tensor]) -> list[str]:
    """The tensors at or below a path, by the names of `outputs_of` ("0" and "[0]" are one place)."""
    if isinstance(structure, Tensor):
        return ["output"]
    nodes = [get(structure, steps) for _, steps in expand(path, structure).values()]
    below = {id(tensor) for node in nodes for tensor in outputs_of(node).values()}
    return [name for name, tensor in tensors.items() if id(tensor) in below]


class Snapshot:
    """The values and versions of everything in a structure, to see what was written into it.

    Args:
        structure: What to watch; held, not copied, besides the values.
        name: What paths begin with.
    """

    def __init__(self, structure: Any, name: str) -> None:
        self._structure = structure
        self._kept = {path: (value, _version(value), _value(value)) for path, value in _watched(structure, name)}
        self._name = name

    def written(self) -> dict[str, str]:
        """What differs now: path to a sentence with numbers."""
        found: dict[str, str] = {}
        now = dict(_watched(self._structure, self._name))
        for path, (value, version, before) in self._kept.items():
            if path not in now:
                found[path] = "removed from its structure"
                continue
            after = now[path]
            if after is not value:
                found[path] = "replaced in its structure by another tensor"
            elif (told := _difference(before, after, _version(value) - version)) is not None:
                found[path] = told
        return found


def _watched(structure: Any, name: str) -> Iterator[tuple[str, Any]]:
    numpy: Any = sys.modules.get("numpy")
    if isinstance(structure, Tensor) or (numpy is not None and isinstance(structure, numpy.ndarray)):
        yield name, structure
        return
    parts = children(structure) if not isinstance(structure, Mapping) else dict(structure)
    for step, node in (parts or {}).items():
        yield from _watched(node, join(name, step if isinstance(step, int) else str(step)))


def _version(value: Any) -> int:
    # A tensor made in inference mode keeps no version.
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _value(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value.copy()


def _difference(before: Any, after: Any, writes: int) -> str | None:
    if not isinstance(after, Tensor):
        changed, size = int((before != after).sum()), after.size
        return f"{changed} of {size} values changed" if changed else None
    if before.shape != after.shape or before.dtype != after.dtype:
        return f"shape {tuple(before.shape)} became {tuple(after.shape)}, {before.dtype} became {after.dtype}"
    same = (before == after.detach()) | ((before != before) & (after.detach() != after.detach()))
    changed = int((~same).sum())
    if not changed and not writes:
        return None
    text = f"{changed} of {after.numel()} values changed"
    if changed and after.dtype != torch.bool:
        text += f", by up to {float((after.detach().double() - before.double()).abs().nan_to_num().max()):.4g}"
    return f"{text}, {writes} in-place write{'s' if writes != 1 else ''}"
