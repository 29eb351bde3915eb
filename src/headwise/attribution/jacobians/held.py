"""Hold still what an extra pass could move: random state, buffers, grad mode; and let it through checkpoints."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.parallel import DistributedDataParallel
from torch.utils import checkpoint


@contextmanager
def same_draw(model: nn.Module) -> Iterator[None]:
    """Give back the state of every global random generator (torch, Python, NumPy) at the end."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    numpy: Any = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    python_state = random.getstate()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)


def refuse_no_closure(who: str, closure: object) -> None:
    """Refuse what makes no forward pass, such as losses that were computed already.

    Args:
        who: Who asks, for the message.
        closure: As it was given.

    Raises:
        ValueError: It is no function.
    """
    if not callable(closure):
        raise ValueError(
            f"{who}: needs a function that makes a forward pass and returns its losses; found "
            f"{type(closure).__name__}. Put the forward pass and the losses into a function of no arguments, and hand "
            "that over"
        )


@contextmanager
def kept_buffers(*owners: Any) -> Iterator[None]:
    """Give back the buffers of modules at the end: running statistics and counters do not move.

    Args:
        *owners: The modules; what is none is passed over.

    Yields:
        Nothing.
    """
    kept = [
        (buffer, buffer.detach().clone())
        for owner in owners
        if isinstance(owner, nn.Module)
        for buffer in owner.buffers()
    ]
    try:
        yield
    finally:
        for buffer, value in kept:
            # Past the version counter: a graph that saved the buffer must still find it unchanged, and does.
            buffer.data.copy_(value)


@contextmanager
def without_reducer(model: nn.Module) -> Iterator[None]:
    """Run passes through DistributedDataParallel that neither communicate nor announce a backward pass."""
    wrappers = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    kept = [(wrapper.require_forward_param_sync, wrapper.find_unused_parameters) for wrapper in wrappers]
    with ExitStack() as stack:
        for wrapper in wrappers:
            stack.enter_context(wrapper.no_sync())
            wrapper.require_forward_param_sync = False
            # Looking for unused parameters puts a node without forward mode behind the outputs.
            wrapper.find_unused_parameters = False
        try:
            yield
        finally:
            for wrapper, (sync, find_unused) in zip(wrappers, kept, strict=True):
                wrapper.require_forward_param_sync = sync
                wrapper.find_unused_parameters = find_unused


@contextmanager
def through_checkpoints() -> Iterator[None]:
    """Let dual numbers through checkpoints, as torch does since it keeps their inputs without a Function.

    Before (torch 2.11) that Function has no forward mode; its output is empty, and so is its tangent. A
    reentrant checkpoint is a Function that computes, and stays as it is.
    """
    kinds = [each for each in vars(checkpoint).values() if isinstance(each, type) and issubclass(each, Function)]
    keepers = [each for each in kinds if each is not checkpoint.CheckpointFunction and "jvp" not in vars(each)]
    for each in keepers:
        each.jvp = staticmethod(lambda ctx, *tangents: torch.empty(0))  # type: ignore[method-assign]
    try:
        yield
    finally:
        for each in keepers:
            del each.jvp


class _Closure(nn.Module):
    """Makes a closure over a model look like the forward pass of a module that has the model as a child."""

    def __init__(self, model: nn.Module, closure: Callable[[], Any]) -> None:
        super().__init__()
        self.model = model
        self._call = closure

    def forward(self) -> Any:
        return self._call()


def call_with(model: nn.Module, closure: Callable[[], Any], tensors: Mapping[str, Tensor]) -> Any:
    """Call a closure that uses a model, with other tensors in place of its parameters and buffers.

    Buffers that are not given are replaced by copies, so that running statistics stay as they are. Where the closure
    makes a backward pass too, a checkpoint runs again with the same replacements.

    Args:
        model: The model that the closure calls.
        closure: Called without arguments.
        tensors: Replacements by the names of parameters and buffers.

    Returns:
        What the closure returned.
    """
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    replaced = {f"model.{name}": tensor for name, tensor in (buffers | dict(tensors)).items()}
    return torch.func.functional_call(_Closure(model, closure), replaced, ())


def fresh_pass(model: nn.Module, closure: Callable[[], Any]) -> Any:
    """Call a closure that makes forward and backward passes, of which random state, buffers and a reducer know nothing.

    Args:
        model: The model that the closure calls.
        closure: Called without arguments, with gradients.

    Returns:
        What the closure returned.
    """
    with same_draw(model), without_reducer(model), torch.enable_grad():
        return call_with(model, closure, {})
