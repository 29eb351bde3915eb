"""What stands behind a callable: the functions and objects that it holds or names, which may hold weights or state."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

from torch import nn

_MOST = 64
_FOREIGN = ("torch.", "numpy.", "builtins", "headwise.")


def callables_behind(*functions: Any, model: nn.Module) -> list[Any]:
    """The given callables and those they call: functions of the same module, criteria, objects that can be called.

    Args:
        *functions: Where to begin; None is skipped.
        model: The network, which is left out with all its modules.

    Returns:
        Each once, the given ones first.
    """
    seen = {id(module) for module in model.modules()}
    found: list[Any] = []
    waiting = [function for function in functions if function is not None]
    while waiting and len(found) < _MOST:
        item = waiting.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        found.append(item)
        waiting.extend(part for part in _next(item) if id(part) not in seen)
    return found


def _next(item: Any) -> Iterator[Any]:
    if isinstance(item, functools.partial):
        yield item.func
    elif isinstance(item, MethodType):
        yield item.__self__
        yield item.__func__
    elif isinstance(item, FunctionType):
        yield from (value for _, _, value in named_values(item) if _is_own(value, item.__module__))
    else:
        method = type(item).forward if isinstance(item, nn.Module) else type(item).__call__
        if isinstance(method, FunctionType) and not method.__module__.startswith(_FOREIGN):
            yield method
        values = list(getattr(item, "__dict__", {}).values())
        values += list(item.children()) if isinstance(item, nn.Module) else []
        yield from (value for value in values if _is_own(value, type(item).__module__))


def _is_own(value: Any, module: str) -> bool:
    if isinstance(value, FunctionType):
        return value.__module__ == module
    if isinstance(value, type) or not callable(value):
        return False
    return not type(value).__module__.startswith(_FOREIGN) or isinstance(value, functools.partial | MethodType)


def named_values(function: FunctionType) -> Iterator[tuple[Any, str, Any]]:
    """The closure and the globals that a function reads, as holder, name and value."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield cell, name, cell.cell_contents
        except ValueError:
            continue  # not yet assigned
    for name in sorted(_global_names(function.__code__)):
        if name in function.__globals__:
            yield function.__globals__, name, function.__globals__[name]


def _global_names(code: Any) -> set[str]:
    inner = [const for const in code.co_consts if hasattr(const, "co_names")]
    return set(code.co_names).union(*(_global_names(const) for const in inner))
