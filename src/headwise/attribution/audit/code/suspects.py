"""Watch a forward pass for what can break the sum: edits in place, detaching, draws, grad mode."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headwise.attribution.apart.naming.frames import own_line
from headwise.structure import leaves

_DETACHING = {"detach", "detach_", "item", "tolist", "numpy"}
_DRAWING = {
    "rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "randperm", "bernoulli", "bernoulli_",
    "multinomial", "normal", "normal_", "uniform_", "dropout", "random_", "exponential_", "poisson",
}  # fmt: skip


@dataclass
class Suspects:
    """Where in the user's code what was called, as "file:line name".

    Attributes:
        in_place: Functions that write to a tensor.
        detaching: Functions that cut the graph.
        drawing: Functions that draw random numbers, with "generator" where they were given one of their own.
        grad_mode: Calls that left gradients switched off.
    """

    in_place: list[str] = field(default_factory=list)
    detaching: list[str] = field(default_factory=list)
    drawing: list[str] = field(default_factory=list)
    grad_mode: list[str] = field(default_factory=list)


class ForwardWatch(TorchFunctionMode):
    """Fills in `suspects` during a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.suspects = Suspects()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(getattr(func, "__name__", ""))
        found = self.suspects
        if name == "__get__" and getattr(getattr(func, "__self__", None), "__name__", "") == "data":
            _note(found.detaching, "data")
        elif name in _DETACHING:
            _note(found.detaching, name)
        if name in _DRAWING:
            _note(found.drawing, f"{name}(generator=...)" if kwargs.get("generator") is not None else name)
        elif name in {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"} or _edits(name):
            _note(found.in_place, name)
        if name == "_set_grad_enabled" and args and args[0] is False:
            _note(found.grad_mode, "set_grad_enabled(False)")
        return func(*args, **kwargs)

    def seen(self, closure: Callable[[], Any]) -> Any:
        """What a closure returns, watched."""
        with self:
            return closure()


def _edits(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_") and not name.endswith("__") and name != "requires_grad_"


def _note(found: list[str], what: str) -> None:
    place = f"{own_line(2)} {what}".strip()
    if place not in found:
        found.append(place)


def captured_tensors(closure: Callable[..., Any], model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a closure holds or reads from its module, and the model's parameters, by name.

    Args:
        closure: A function, method, partial or callable object.
        model: The model.

    Returns:
        Name to tensor.
    """
    found: dict[str, Tensor] = dict(model.named_parameters())
    for name, value in _captured(closure):
        if not isinstance(value, nn.Module | type) and (isinstance(value, Tensor | Mapping | list | tuple)):
            found.update(leaves(value, name))
    return found


def _captured(closure: Any) -> Iterable[tuple[str, Any]]:
    while isinstance(closure, functools.partial):
        yield from ((f"argument {i}", value) for i, value in enumerate(closure.args))
        yield from closure.keywords.items()
        closure = closure.func
    owner = getattr(closure, "__self__", None)
    if owner is not None:
        yield from getattr(owner, "__dict__", {}).items()
    function = getattr(closure, "__func__", closure)
    code = getattr(function, "__code__", None)
    if code is None:
        yield from getattr(closure, "__dict__", {}).items()
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue
    yield from ((name, function.__globals__[name]) for name in code.co_names if name in function.__globals__)
