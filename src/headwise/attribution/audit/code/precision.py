"""Run code that was written for float32, or for autocast, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

NARROW = (torch.float32, torch.float16, torch.bfloat16)
_CASTS = {"float", "half", "bfloat16"}


class _Float64(TorchFunctionMode):
    """Widens every floating-point argument, and every request for a narrower type."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _CASTS:
            return args[0].double()
        kwargs = {key: _widened(value) for key, value in (kwargs or {}).items()}
        kept = args[:1] if _writes(name) else ()
        return func(*kept, *(_widened(value) for value in args[len(kept) :]), **kwargs)


def _writes(name: str) -> bool:
    """Whether a function writes to its first argument, which must then stay the tensor that it is."""
    if name.startswith("__"):
        return name in {"__setitem__", "__set__"} or (
            name.startswith("__i") and name not in {"__index__", "__invert__"}
        )
    return name.endswith("_")


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype in NARROW else value
    if isinstance(value, torch.dtype):
        return torch.float64 if value in NARROW else value
    if type(value) in (list, tuple):
        return type(value)(_widened(each) for each in value)
    return value


@contextmanager
def in_float64() -> Iterator[None]:
    """Compute in float64 whatever the code inside asks for: factories, casts, autocast and constants alike."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64():
            yield
    finally:
        torch.set_default_dtype(default)


def widened_state(model: nn.Module) -> Mapping[str, Tensor]:
    """Float64 copies of all parameters (as leaves) and buffers of a model, by name."""
    parameters = {
        name: parameter.detach().to(_wide(parameter)).clone().requires_grad_(parameter.requires_grad)
        for name, parameter in model.named_parameters()
    }
    return {**{name: buffer.detach().to(_wide(buffer)).clone() for name, buffer in model.named_buffers()}, **parameters}


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype in NARROW else tensor.dtype
