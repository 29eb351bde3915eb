"""Copies of nested structures, and what was written into them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from headwise.structure import mapped, walk


def _array(leaf: Any) -> Any:
    """A copy of a NumPy array; anything else as it is."""
    numpy: Any = sys.modules.get("numpy")
    return leaf.copy() if numpy is not None and isinstance(leaf, numpy.ndarray) else leaf


def cloned(structure: Any) -> Any:
    """Clones that keep their graph, so that what is written into them stays with them."""
    return mapped(structure, lambda tensor: tensor.clone(), _array)


def handed(structure: Any) -> Any:
    """Clones of all but what asks for a gradient itself: by that the criterion differentiates (forces, penalties)."""
    return mapped(structure, lambda tensor: tensor if _is_asking(tensor) else tensor.clone(), _array)


def _is_asking(tensor: Tensor) -> bool:
    return tensor.is_leaf and tensor.requires_grad


def copied(structure: Any) -> Any:
    """Copies: leaves of leaves, clones of what has a graph."""

    def twin(tensor: Tensor) -> Tensor:
        if tensor.grad_fn is not None:
            return tensor.clone()
        return tensor.detach().clone().requires_grad_(tensor.requires_grad and tensor.is_leaf)

    return mapped(structure, twin, _array)


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
    kinds = (Tensor,) if numpy is None else (Tensor, numpy.ndarray)
    return ((path, leaf) for path, leaf in walk(structure, name) if isinstance(leaf, kinds))


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
