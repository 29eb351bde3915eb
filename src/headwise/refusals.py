"""What would silently give wrong numbers is refused, with the reason and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.parallel import DistributedDataParallel

_INSTEAD = (
    "Use the ledger, which books outputs and features under FSDP2, or look at the model before `fully_shard`, on one "
    "process."
)


def refuse_no_model(what: str, model: object, instead: str = "Give the network whose parameters are trained") -> None:
    """Raise where something is no network: a function, the class of one, its parameters.

    Args:
        what: The function that asks, for the message.
        model: As it was given.
        instead: The remedy.

    Raises:
        ValueError: It is no module.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ValueError(f"{what}: a model is an nn.Module; found {kind}. {instead}")


def refuse_unsafe(what: str, model: nn.Module, parameters: Mapping[str, Tensor], nodes: Sequence[Node]) -> None:
    """Raise where extra backward passes over a graph would be wrong.

    Args:
        what: The function that asks, for the message.
        model: The network.
        parameters: The parameters whose gradients are wanted.
        nodes: The nodes of the graph.

    Raises:
        ValueError: If parameters are sharded (FSDP2), DistributedDataParallel has a static graph, a reentrant
            checkpoint hides parameters, or a compiled part may free its buffers after one backward pass.
    """
    refuse_sharded(what, parameters)
    refuse_static_graph(what, nodes, model)
    refuse_reentrant(what, nodes)
    if any("CompiledFunctionBackward" in node.name() for node in nodes) and donates_buffers():
        raise ValueError(
            f"{what}: a compiled part may donate its buffers to its first backward pass, and a second one would read "
            "what was overwritten. Set torch._functorch.config.donated_buffer = False before the first compiled call."
        )


def refuse_sharded(
    what: str, parameters: Mapping[str, Tensor], model: nn.Module | None = None, *, instead: str = _INSTEAD
) -> None:
    """Raise if a parameter is sharded: the graph holds other tensors in its place, so it would look unreached.

    Args:
        what: The function that asks, for the message.
        parameters: The parameters, by name.
        model: The network, where it is known: between forward and backward its parameters may look whole.
        instead: The remedy.

    Raises:
        ValueError: A parameter is a DTensor, or a module is sharded.
    """
    sharded = next((name for name, parameter in parameters.items() if hasattr(parameter, "full_tensor")), None)
    modules = {} if model is None else dict(model.named_modules())
    sharded = sharded or next(
        (name or type(each).__name__ for name, each in modules.items() if hasattr(each, "set_requires_gradient_sync")),
        None,
    )
    if sharded is not None:
        raise ValueError(
            f"{what}: {sharded!r} is sharded (FSDP2), and the graph holds other tensors in place of its parameters, so "
            f"that they would look unreached. {instead}"
        )


def refuse_reentrant(what: str, nodes: Iterable[Node]) -> None:
    """Raise if a reentrant checkpoint hides parameters.

    Args:
        what: The function that asks, for the message.
        nodes: The nodes of the graph.

    Raises:
        ValueError: There is one.
    """
    if any("CheckpointFunctionBackward" in node.name() for node in nodes):
        raise ValueError(
            f"{what}: the graph has a reentrant checkpoint. autograd.grad returns None for the parameters inside it, "
            "so they would look unreached. Pass use_reentrant=False to torch.utils.checkpoint.checkpoint."
        )


def donates_buffers() -> bool:
    """Whether compiled parts may free saved tensors during a backward pass."""
    config: Any = getattr(torch._functorch, "config", None)
    return bool(getattr(config, "donated_buffer", True))


def refuse_static_graph(what: str, nodes: Iterable[Node], model: nn.Module | None = None) -> None:
    """Raise if DistributedDataParallel counts on one backward pass through its graph.

    Args:
        what: The function that asks, for the message.
        nodes: The nodes of the graph.
        model: The network, where it is known.

    Raises:
        ValueError: It has a static graph.
    """
    modules: Iterable[nn.Module] = () if model is None else model.modules()
    wrappers = [module for module in modules if isinstance(module, DistributedDataParallel)]
    # The wrapper may have been left out; its sink in the graph still knows it.
    sinks = [getattr(node, "ddp_weakref", None) for node in nodes if node.name() == "_DDPSinkBackward"]
    wrappers += [wrapper for sink in sinks if sink is not None and (wrapper := sink()) is not None]
    if any(wrapper.static_graph for wrapper in wrappers):
        raise ValueError(
            f"{what}: DistributedDataParallel has static_graph=True. It counts the passes of its first step "
            "and queues the all-reduce on the first one, so an extra pass would leave gradients unsynchronized. "
            "Build it with static_graph=False (find_unused_parameters=True works)."
        )


def wrapped_by_ddp(model: nn.Module, nodes: Sequence[Node] = ()) -> bool:
    """Whether numbers of this process cover its own samples only."""
    return any(isinstance(module, DistributedDataParallel) for module in model.modules()) or any(
        node.name() == "_DDPSinkBackward" for node in nodes
    )
