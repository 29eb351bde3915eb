"""Names of losses from the variables of the code that is running: its frames, their dicts, lists and objects."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, MemberDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attribution.apart.naming.spelled import loop_variables
from headwise.attribution.apart.sums.counts import factors_of
from headwise.attribution.apart.sums.dissect import LAST, Candidate
from headwise.attribution.apart.words import numbered, says_total

_KEY, _ATTRIBUTE, _VARIABLE, _POSITION, _PASSING = range(5)
_HERE = f"{Path(__file__).parents[3]}{os.sep}"  # not resolved: frames have the path of the import, which may be a link
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"  # torchvision, torchmetrics and the like are not torch
_MANY = 4096


def callers(depth: int = 1) -> list[FrameType]:
    """The frames above, innermost first, without those of PyTorch and of this library.

    Args:
        depth: How many frames to leave out.

    Returns:
        The frames.
    """
    found: list[FrameType] = []
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        if not is_ours(frame):
            found.append(frame)
        frame = frame.f_back
    return found


def own_line(depth: int = 1) -> str:
    """The innermost line of the user's code.

    Args:
        depth: How many frames to leave out.

    Returns:
        "file.py:12"; empty where there is none.
    """
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None and is_ours(frame):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


def is_ours(frame: FrameType) -> bool:
    """Whether a frame belongs to PyTorch or to this library."""
    return frame.f_code.co_filename.startswith((_HERE, _TORCH))


def candidates_in(frames: Sequence[FrameType]) -> list[Candidate]:
    """The losses that variables hold, under the names that the code gives them.

    Args:
        frames: The frames, innermost first.

    Returns:
        Scalars with a graph, each tensor once: by the key of a dict rather than by an attribute, a variable or a
        position in a list, and by that rather than by the variable of a loop; of two variables by the one that is
        longer.
    """
    best: dict[int, tuple[tuple[bool, int, bool, int, int], str, Tensor]] = {}
    for level, frame in enumerate(frames):
        passing = loop_variables(frame.f_code.co_filename)
        for held, name, tensor in _held(frame.f_locals):
            kind = _PASSING if held == _VARIABLE and name in passing else held
            # What was added up in place is the total, whatever loss it began as: `total = loss_a; total += loss_b`.
            # Of the names that functions hand it on by, one that says no more than "loss" is the last.
            order = (tensor._version > 0 and not says_total(name), kind, says_total(name), level, -len(name))
            if id(tensor) not in best or order < best[id(tensor)][0]:
                best[id(tensor)] = (order, name, tensor)
    taken: dict[str, int] = {}
    found = []
    for (_, kind, _, level, _), name, tensor in sorted(best.values(), key=lambda each: each[0][3:]):
        taken[name] = taken.get(name, 0) + 1
        found.append(
            Candidate(numbered(name, taken[name]), tensor, LAST * says_total(name) + 10 * kind + min(level, 9))
        )
    return found


def modules_in(frames: Sequence[FrameType]) -> dict[str, nn.Module]:
    """The modules that variables, and the attributes and elements of objects in variables, hold.

    Args:
        frames: The frames.

    Returns:
        The modules with parameters by the name of the variable, attribute or element, each once; those inside of
        others, and the wrappers of DDP and torch.compile, left out.
    """
    found: dict[int, tuple[str, nn.Module]] = {}
    for variables in _variables(frames):
        for name, value in variables:
            for key, each in [(name, value), *_attributes(value).items(), *_elements(name, value)]:
                if isinstance(each, nn.Module) and next(each.parameters(), None) is not None:
                    module = _unwrapped(each)
                    found.setdefault(id(module), (key, module))
    inner = {id(child) for _, module in found.values() for child in module.modules() if child is not module}
    outer = [(name, module) for key, (name, module) in found.items() if key not in inner]
    return {
        name if all(name != other for other, _ in outer[:nr]) else f"{name} ({nr})": module
        for nr, (name, module) in enumerate(outer)
    }


def _elements(name: str, value: Any) -> list[tuple[str, Any]]:
    """What a list, tuple or dict holds, by position or key."""
    if not isinstance(value, list | tuple | dict) or len(value) > _MANY:
        return []
    if isinstance(value, dict):
        return [(str(key), each) for key, each in list(value.items())]
    return [(f"{name}[{number}]", each) for number, each in enumerate(value)]


def parameters_in(frames: Sequence[FrameType]) -> dict[int, tuple[str, ...]]:
    """The tensors that are trained and that variables hold themselves, not modules.

    Args:
        frames: The frames.

    Returns:
        By the identity of the tensor the name of the variable, as `names_of` has the modules of other parameters.
    """
    found: dict[int, tuple[str, ...]] = {}
    for variables in _variables(frames):
        for name, value in variables:
            for key, each in [(name, value), *_attributes(value).items(), *_elements(name, value)]:
                if isinstance(each, Tensor) and each.is_leaf and each.requires_grad:
                    found.setdefault(id(each), (key,))
    return found


def _variables(frames: Sequence[FrameType]) -> Iterator[list[tuple[str, Any]]]:
    """The variables of the frames, then those of the user's files that they run in: a model may be a global there."""
    for frame in frames:
        yield list(frame.f_locals.items())
    files = {id(frame.f_globals): frame for frame in frames if "site-packages" not in frame.f_code.co_filename}
    for frame in files.values():
        if frame.f_globals is not frame.f_locals:
            yield list(frame.f_globals.items())


def loss_scale_in(frames: Sequence[FrameType], root: Tensor) -> Tensor | None:
    """The scale of a `GradScaler` that variables, or the attributes of objects in variables, hold.

    Args:
        frames: The frames.
        root: What backward was called on.

    Returns:
        The scale, if it was the last thing that the number was multiplied by.
    """
    node = root.grad_fn
    last = factors_of(node) if node is not None and node.name() == "MulBackward0" else []
    factors = {float(each) for each in last if each.numel() == 1}
    for variables in _variables(frames) if factors else ():
        for _, value in variables:
            for each in (value, *_attributes(value).values()):
                if isinstance(each, torch.amp.GradScaler) and each.is_enabled() and each.get_scale() in factors:
                    return torch.tensor(each.get_scale(), device=root.device)
    return None


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module inside of DDP, DataParallel or torch.compile, which add a part to every name."""
    while True:
        inner = next(module.children(), None) if type(module).__name__ == "OptimizedModule" else None
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _held(variables: Mapping[str, Any]) -> Iterator[tuple[int, str, Tensor]]:
    for name, value in list(variables.items()):
        if not name.isidentifier():  # made by tools, such as the assertions of pytest
            continue
        if _is_loss(value):
            yield _VARIABLE, name, value
        elif isinstance(value, Mapping) or (type(value).__module__ != "builtins" and not isinstance(value, Tensor)):
            yield from _inside(name, value)
        elif isinstance(value, list | tuple) and len(value) <= _MANY:
            yield from ((_POSITION, f"{name}[{number}]", each) for number, each in enumerate(value) if _is_loss(each))
            yield from (each for number, part in enumerate(value) for each in _inside(f"{name}[{number}]", part))


def _inside(name: str, value: Any) -> Iterator[tuple[int, str, Tensor]]:
    """The losses in a dict, or in the attributes of an object."""
    kind, parts = (_KEY, value) if isinstance(value, Mapping) else (_ATTRIBUTE, _attributes(value))
    if len(parts) > _MANY:
        return
    for key, part in list(parts.items()):
        if _is_loss(part):
            yield kind, str(key), part
        elif isinstance(part, Mapping) and len(part) <= _MANY:
            yield from ((_KEY, f"{key}.{inner}", each) for inner, each in list(part.items()) if _is_loss(each))
        elif isinstance(part, list | tuple) and len(part) <= _MANY:
            yield from ((_POSITION, f"{key}[{nr}]", each) for nr, each in enumerate(part) if _is_loss(each))


def _attributes(value: Any) -> dict[str, Any]:
    """What an object keeps in its own dictionary, slots or named fields: no property of it is called."""
    if isinstance(value, type | ModuleType | Tensor) or (callable(value) and not isinstance(value, nn.Module)):
        return {}
    if isinstance(value, tuple):
        return dict(zip(getattr(type(value), "_fields", ()), value, strict=False))
    found: dict[str, Any] = {}
    for name in ("__dict__", *_slots(type(value))):
        with suppress(AttributeError):
            found[name] = object.__getattribute__(value, name)
    own = found.pop("__dict__", None)
    return {str(key): each for key, each in own.items()} | found if isinstance(own, dict) else found


def _slots(kind: type) -> tuple[str, ...]:
    """The names for which objects of a class written in Python have places of their own."""
    heap = [each for each in kind.__mro__ if "__slots__" in vars(each)]
    return tuple(name for each in heap for name, what in vars(each).items() if isinstance(what, MemberDescriptorType))


def _is_loss(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.grad_fn is not None
