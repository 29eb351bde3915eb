"""A stand-in for a function that is called out of turn: what the function holds and changes stays as it is."""

from __future__ import annotations

import copy
import enum
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

# What is never written into. Parameters are left to the optimizer, and nobody wants them twice in memory.
_LEFT = (
    type(None), bool, int, float, complex, str, bytes, type, enum.Enum, ModuleType, BuiltinFunctionType,
    torch.dtype, torch.device, nn.Parameter,
)  # fmt: skip
_MOST_OBJECTS = 10_000
_MOST_BYTES = 1 << 26
"""How much is copied at most, of a tensor or array: what holds more (a trainer, a data set) has no stand-in."""

_TOGETHER = ("torch.nn.parallel", "torch.distributed")
"""Whose modules answer to other processes."""


def stand_in(function: Any) -> Any:
    """A function that does the same, on copies of what the function holds and of the globals that it names.

    A loss that is tried out must not count, learn statistics or fill a queue more often than the loop calls it.

    Args:
        function: A function, method, module or other object that can be called.

    Returns:
        Its stand-in; functions of torch and of this library, which hold nothing, are themselves.

    Raises:
        Exception: It holds what cannot be copied (an open file, a tensor with a graph), or too much.
    """
    return _StandIns().of(function)


@contextmanager
def out_of_turn(tensor: Tensor) -> Iterator[None]:
    """What is called within draws no random numbers of the loop's, has no graph, and compiles nothing.

    Args:
        tensor: On whose device it is called.
    """
    numpy = sys.modules.get("numpy")
    python, numbers = random.getstate(), None if numpy is None else numpy.random.get_state()
    devices = [tensor.device] if tensor.is_cuda else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(numbers)


class _StandIns:
    """Stand-ins of objects that refer to each other, each made once."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Any]] = {}  # with what was copied, whose id stays its own as long as it lives
        self._globals: dict[int, dict[str, Any]] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, _LEFT):
            return value
        if id(value) in self._made:
            return self._made[id(value)][1]
        if len(self._made) >= _MOST_OBJECTS or getattr(value, "nbytes", 0) > _MOST_BYTES:
            raise ValueError("it holds too much")
        if hasattr(type(value), "__del__"):
            raise ValueError(f"its {type(value).__name__} closes something at its end, which a copy would close too")
        if type(value).__module__.startswith(_TOGETHER):
            raise ValueError(f"its {type(value).__name__} calls other processes")
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return self._keep(value, MethodType(self.of(value.__func__), self.of(value.__self__)))
        if isinstance(value, partial):
            fixed = {name: self.of(each) for name, each in value.keywords.items()}
            return self._keep(value, partial(self.of(value.func), *map(self.of, value.args), **fixed))
        if isinstance(value, torch.Generator):
            return self._keep(value, value.clone_state())
        if isinstance(value, Tensor):
            if value.grad_fn is not None:
                raise ValueError("it holds a tensor with a graph")
            return self._keep(value, value.detach().clone())
        return self._container(value)

    def _container(self, value: Any) -> Any:
        if type(value) is tuple:
            return self._keep(value, tuple(map(self.of, value)))
        if type(value) is list:
            twin = self._keep(value, [])
            twin.extend(map(self.of, value))
            return twin
        if isinstance(value, dict):
            twin = self._keep(value, copy.copy(value))
            twin.update({key: self.of(each) for key, each in value.items()})
            return twin
        if hasattr(type(value), "__deepcopy__") or not hasattr(value, "__dict__"):
            return self._keep(value, copy.deepcopy(value))
        twin = self._keep(value, object.__new__(type(value)))  # of Python's own classes alone
        vars(twin).update({name: self.of(each) for name, each in vars(value).items()})
        return twin

    def _function(self, value: FunctionType) -> Any:
        owner = str(value.__globals__.get("__name__"))
        if f"{owner}.".startswith("torch."):  # one that torch has compiled or decorated holds the user's
            inner = getattr(value, "__wrapped__", None)
            return value if inner is None else self.of(inner)
        if f"{owner}.".startswith("headwise."):
            return value
        scope = self._globals.setdefault(id(value.__globals__), dict(value.__globals__))
        cells = tuple([CellType() for _ in value.__closure__ or ()])
        twin = self._keep(value, FunctionType(value.__code__, scope, value.__name__, None, cells))
        twin.__defaults__, twin.__kwdefaults__ = self.of(value.__defaults__), self.of(value.__kwdefaults__)
        vars(twin).update(vars(value))
        for cell, own in zip(cells, value.__closure__ or (), strict=True):
            cell.cell_contents = self.of(own.cell_contents)
        for name in _names(value.__code__) & value.__globals__.keys():
            scope[name] = self.of(value.__globals__[name])
        return twin

    def _keep(self, value: Any, twin: Any) -> Any:
        self._made[id(value)] = (value, twin)
        return twin


def _names(code: CodeType) -> set[str]:
    """The names that code looks up, that of functions inside of it included."""
    return set(code.co_names).union(*[_names(each) for each in code.co_consts if isinstance(each, CodeType)])
