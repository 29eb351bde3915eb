"""What would silently give wrong gradients is refused, with the reason and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.autograd.graph import Node


def refuse_sharded(what: str, network: nn.Module | None, parameters: Iterable[Tensor]) -> None:
    """Raises if a parameter is sharded: the graph holds other tensors in its place, so it would look unreached.

    Args:
        what: The function that asks, for the message.
        network: The network, where it is known: between forward and backward its parameters may look whole.
        parameters: The parameters.

    Raises:
        ValueError: A module is sharded, or a parameter is a DTensor.
    """
    modules = [] if network is None else network.modules()
    sharded = any(hasattr(module, "set_requires_gradient_sync") for module in modules)
    if sharded or any(hasattr(parameter, "full_tensor") for parameter in parameters):
        raise ValueError(
            f"{what}: a parameter is sharded (FSDP2), and autograd.grad would take it for unreached. "
            "Use DDP, or the plain breakdown.total.backward()"
        )


def refuse_unsafe(what: str, roots: Iterable[Tensor]) -> None:
    """Raises where several passes over one graph, past the hooks of parameters, would be wrong.

    Args:
        what: The function that asks, for the message.
        roots: Where the passes begin.

    Raises:
        ValueError: The graph has a reentrant checkpoint, or DDP's static graph.
    """
    for node in _nodes(roots):
        name = node.name()
        if "CheckpointFunctionBackward" in name:
            raise ValueError(
                f"{what}: the graph has a reentrant checkpoint, whose parameters would look unreached. "
                "Pass use_reentrant=False to torch.utils.checkpoint.checkpoint"
            )
        wrapper = getattr(node, "ddp_weakref", None) if name == "_DDPSinkBackward" else None
        if wrapper is not None and getattr(wrapper(), "static_graph", False):
            raise ValueError(
                f"{what}: DistributedDataParallel has static_graph=True and queues its all-reduce on the first pass "
                "through its graph. Build it with static_graph=False"
            )


def _nodes(roots: Iterable[Tensor]) -> Iterator[Node]:
    waiting = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(each for each, _ in node.next_functions if each is not None)
