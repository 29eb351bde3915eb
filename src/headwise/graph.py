"""Walk the autograd graph below several losses at once.

Every node gets one integer: bit k says that loss k reaches it, bit K + k that it does so through more than a
factor known to be zero. One pass in topological order fills them in.

A node-level mask merges what passes side by side through one node. Two kinds of node say which of their outputs
belongs to which of their inputs, and are walked output by output:

- DistributedDataParallel's sink, output i of which is input i;
- any custom Function whose node has an attribute `headwise_routes`, a tuple of
  `(output_nr, input_nr, channel_dim, start, stop)`: in the forward pass, output `output_nr` is computed from the slice
  `start:stop` along `channel_dim` of the tensor input `input_nr` alone. `start` and `stop` None: element by element
  from all of it, or, if the output is a scalar, from all elements. A channel may have been squeezed away. `input_nr`
  counts the tensor arguments, as `next_functions` does, also those without a gradient. Set it on `ctx` in `forward`
  or `setup_context`.

Every private name of PyTorch that Headwise reads is listed here, in `PRIVATE_ATTRIBUTES` (of autograd nodes, by kind)
and `PRIVATE_NAMES` (all others); a test finds them in the source, and asks that each exists.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

Edge: TypeAlias = tuple[Node, int]
Route: TypeAlias = tuple[int, int, int | None, int | None, int | None]

PRIVATE_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "SliceBackward0": ("_saved_dim", "_saved_start", "_saved_end", "_saved_step"),
    "SelectBackward0": ("_saved_dim", "_saved_index"),
    "SplitBackward0": ("_saved_dim", "_saved_split_size"),
    "SplitWithSizesBackward0": ("_saved_dim", "_saved_split_sizes"),
    "UnbindBackward0": ("_saved_dim",),
    "IndexBackward0": ("_saved_indices",),
    "IndexSelectBackward0": ("_saved_dim", "_saved_index"),
    "PermuteBackward0": ("_saved_dims",),
    "TransposeBackward0": ("_saved_dim0", "_saved_dim1"),
    "CatBackward0": ("_saved_dim",),
    "StackBackward0": ("_saved_dim",),
    "SumBackward1": ("_saved_dim", "_saved_keepdim"),
    "MeanBackward1": ("_saved_dim", "_saved_keepdim"),
    "SoftmaxBackward0": ("_saved_dim",),
    "LogSoftmaxBackward0": ("_saved_dim",),
    "MulBackward0": ("_raw_saved_self", "_raw_saved_other", "_saved_self", "_saved_other"),
    "ConvolutionBackward0": ("_saved_groups",),
    "NativeBatchNormBackward0": ("_saved_training",),
    "AddBackward0": ("_input_metadata", "_sequence_nr"),  # as every node that is no leaf
    "ExpBackward0": ("_saved_result", "_raw_saved_result"),
}

PRIVATE_NAMES: tuple[str, ...] = (
    "torch._C._current_graph_task_id",  # which backward pass runs: what its readers leave behind is kept apart
    "torch._C._are_functorch_transforms_active",  # nothing is written in place where a transform batches
    "torch._C._functorch.is_legacy_batchedtensor",
    "torch._functorch.config.aggressive_recomputation",  # compiled kernels recompute
    "torch._inductor.compile",  # the same, as the backend that the setting is made for
    "torch._functorch.config.donated_buffer",  # whether a compiled part frees what a second pass needs
    "torch.nn.Module._compiled_call_impl",  # whether a module was compiled in place
    "torch.overrides._get_current_function_mode_stack",  # a mode is left only where it is the innermost
    "torch._foreach_norm",  # the norms of many tensors in one launch
    "torch.utils._python_dispatch.TorchDispatchMode",  # sees copies to the host
    "torch.utils._pytree.register_pytree_node",  # a breakdown is taken apart and put together by torch
    "torch.nn.modules.batchnorm._BatchNorm",
    "torch.Tensor._version",  # how often a tensor was written in place
    "torch.Tensor._backward_hooks",
)


def is_batched(*tensors: Tensor) -> bool:
    """Whether tensors stand for several each: in a transform of `torch.func`, or of ``is_grads_batched=True``."""
    if torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():
        return True
    return any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))


_ONE_NODE = "is one node, every input of which counts as reached by every loss behind it"
_OPAQUE = {
    "CompiledFunctionBackward": f"a compiled part {_ONE_NODE}",
    "CheckpointFunctionBackward": "a reentrant checkpoint hides the parameters inside it (pass use_reentrant=False)",
    "DifferentiableGraph": f"a scripted part {_ONE_NODE}",
    "ScriptedFunction": f"a scripted part {_ONE_NODE}",
    "ScriptFunction": f"a scripted part {_ONE_NODE}",
}


def gradient_edge(tensor: Tensor) -> Edge | None:
    """Where the gradient of a tensor enters the graph, or None if it has none."""
    if not tensor.requires_grad:
        return None
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def opaque_reason(node: Node) -> str | None:
    """Why the walk cannot see into a node, or None if it can."""
    return _opaque_reason(node.name())


@lru_cache(maxsize=1024)
def _opaque_reason(name: str) -> str | None:
    return next((reason for key, reason in _OPAQUE.items() if key in name), None)


def routes_of(node: Node) -> tuple[Route, ...] | None:
    """Which output of a node comes from which input, where the node tells."""
    routes: tuple[Route, ...] | None = getattr(node, "headwise_routes", None)
    return _sink_routes(node) if routes is None and node.name() == "_DDPSinkBackward" else routes


def _sink_routes(node: Node) -> tuple[Route, ...]:
    """The sink returns its inputs; those that are no tensors have an output number but no edge."""
    tensors = [nr for nr, size in enumerate(output_shapes(node)) if size is not None]
    if len(tensors) != len(node.next_functions):
        tensors = list(range(len(node.next_functions)))
    return tuple((output_nr, input_nr, None, None, None) for input_nr, output_nr in enumerate(tensors))


def output_shapes(node: Node) -> tuple[tuple[int, ...] | None, ...]:
    """Shapes of what a node computed in the forward pass; None where unknown or not a tensor."""
    variable = getattr(node, "variable", None)
    if isinstance(variable, Tensor):
        return (tuple(variable.shape),)
    return tuple(_shape(entry) for entry in getattr(node, "_input_metadata", ()))


def output_dtypes(node: Node) -> tuple[Any, ...]:
    """Dtypes of what a node computed in the forward pass, as far as they are known."""
    return tuple(_dtype(entry) for entry in getattr(node, "_input_metadata", ()))


def _dtype(entry: Any) -> Any:
    try:
        return entry.dtype
    except (RuntimeError, TypeError, AttributeError):
        return None


def _shape(entry: Any) -> tuple[int, ...] | None:
    # An entry for an output that is no tensor has no shape to give and raises when asked.
    try:
        return tuple(int(size) for size in entry.shape)
    except (RuntimeError, TypeError, AttributeError):
        return None


def topological(roots: Iterable[Node]) -> list[Node]:
    """All nodes below the roots, each before everything it passes a gradient to."""
    order: list[Node] = []
    seen: set[Node] = set()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        stack = [(root, iter(root.next_functions))]
        while stack:
            node, edges = stack[-1]
            for child, _ in edges:
                if child is not None and child not in seen:
                    seen.add(child)
                    stack.append((child, iter(child.next_functions)))
                    break
            else:
                order.append(node)
                stack.pop()
    order.reverse()
    return order


def used_below(places: Collection[Edge]) -> dict[Edge, list[tuple[Node, int]]]:
    """Where places of a graph lie below others of them: an output from which the network computes another output.

    Args:
        places: The places.

    Returns:
        For those that do, the operations below that use them, each with the number of its input.
    """
    wanted = set(places)
    found: dict[Edge, list[tuple[Node, int]]] = {}
    for node in topological(node for node, _ in places):
        for number, (child, port) in enumerate(node.next_functions):
            if child is not None and (child, port) in wanted:
                found.setdefault((child, port), []).append((node, number))
    return found


def children(node: Node) -> list[Node]:
    """The nodes to which a node passes a gradient."""
    return [child for child, _ in node.next_functions if child is not None]


def saved(node: Node, attribute: str) -> Any:
    """What a node saved in the forward pass.

    Args:
        node: The node.
        attribute: Its name, `_saved_...`.

    Returns:
        The saved value.

    Raises:
        AttributeError: If there is no such value, or a hook holds it: unpacking it would run a checkpoint again.
    """
    raw = getattr(node, f"_raw{attribute}", ())
    if any(getattr(each, "unpack_hook", None) is not None for each in (raw if isinstance(raw, tuple) else (raw,))):
        raise AttributeError(f"{attribute} is held by a hook")
    return getattr(node, attribute)


def zero_factor_edges(node: Node) -> frozenset[int]:
    """The inputs of a product whose other factor is a single number known to be zero."""
    factors = (getattr(node, "_raw_saved_other", None), getattr(node, "_raw_saved_self", None))
    return frozenset(index for index, factor in enumerate(factors) if _is_zero(factor))


def _is_zero(saved: Any) -> bool:
    # Unpacking under a hook would run a checkpoint again or copy from another device: leave it unknown.
    if saved is None or getattr(saved, "unpack_hook", None) is not None:
        return False
    try:
        value = saved.data
    except RuntimeError:
        return False
    small = isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu"
    return small and value.item() == 0


@dataclass(frozen=True)
class Walk:
    """The graph below the losses, with one mask per node and per watched edge.

    Attributes:
        nodes: All nodes in topological order, losses first.
        masks: Bit k: loss k reaches the node; bit K + k: through more than zero weight.
        ports: The same per output number, for the nodes that are watched or routed.
        num_losses: K.
    """

    nodes: tuple[Node, ...]
    masks: Mapping[Node, int]
    ports: Mapping[Node, Mapping[int, int]]
    num_losses: int

    def edge_mask(self, edge: Edge | None) -> int:
        """The mask of one edge that was watched; 0 where no loss reaches it."""
        return self.ports.get(edge[0], {}).get(edge[1], 0) if edge is not None else 0

    def reached(self, mask: int) -> int:
        """The bits of the losses that reach."""
        return mask & ((1 << self.num_losses) - 1)

    def live(self, mask: int) -> int:
        """The bits of the losses that reach through more than zero weight."""
        return mask >> self.num_losses


def walk(roots: Sequence[tuple[Edge, int]], num_losses: int, watched: Iterable[Edge] = ()) -> Walk:
    """Carry the masks of the losses down the graph, all at once.

    Args:
        roots: Gradient edge of each loss with its starting bits.
        num_losses: K.
        watched: Edges whose own masks are wanted, not only those of their nodes.

    Returns:
        The nodes and their masks.
    """
    low = (1 << num_losses) - 1
    ports: dict[Node, dict[int, int]] = {node: {} for node, _ in watched}
    nodes = topological(edge[0] for edge, _ in roots)
    masks = dict.fromkeys(nodes, 0)
    for node in nodes:
        if routes_of(node) is not None:
            ports.setdefault(node, {})

    def send(child: Node, port: int, bits: int) -> None:
        masks[child] |= bits
        if child in ports:
            ports[child][port] = ports[child].get(port, 0) | bits

    for (node, port), bits in roots:
        send(node, port, bits)
    for node in nodes:
        mask = masks[node]
        routes = routes_of(node) if node in ports else None
        if routes is not None:
            for output_nr, input_nr, *_ in routes:
                child, port = node.next_functions[input_nr]
                if child is not None:
                    send(child, port, ports[node].get(output_nr, 0))
            continue
        zeros = zero_factor_edges(node) if node.name() == "MulBackward0" else ()
        for index, (child, port) in enumerate(node.next_functions):
            if child is not None:
                send(child, port, mask & low if index in zeros else mask)
    return Walk(tuple(nodes), masks, ports, num_losses)


def leaf_masks(traced: Walk) -> dict[int, int]:
    """The masks of the leaves, by the identity of the leaf tensor."""
    leaves = ((getattr(node, "variable", None), mask) for node, mask in traced.masks.items())
    return {id(leaf): mask for leaf, mask in leaves if leaf is not None}
