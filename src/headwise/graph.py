"""The autograd graph: its nodes, edges, shapes and what nodes saved.

`headwise.reach` carries down it which losses reach what. Two kinds of node say which of their outputs belongs to which
of their inputs, and are walked output by output:

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

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

T = TypeVar("T", bound=Hashable)
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
    "WhereBackward0": ("_saved_condition",),
    "LogBackward0": ("_saved_self",),
    "Log1PBackward0": ("_saved_self",),
    "AbsBackward0": ("_saved_self",),
    "SoftplusBackward0": ("_saved_self", "_saved_beta", "_saved_threshold"),
    "PowBackward0": ("_saved_self", "_saved_exponent"),
}

PRIVATE_NAMES: tuple[str, ...] = (
    "torch._C._current_graph_task_id",  # which backward pass runs: what its readers leave behind is kept apart
    "torch._C._are_functorch_transforms_active",  # nothing is written in place where a transform batches
    "torch._C._functorch.is_legacy_batchedtensor",
    "torch._functorch.config.aggressive_recomputation",  # compiled kernels recompute
    "torch._inductor.compile",  # the same, as the backend that the setting is made for
    "torch._functorch.config.donated_buffer",  # whether a compiled part frees what a second pass needs
    "torch.nn.Module._parameters",  # the parameters and the modules of a model in one walk
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


def is_captured(tensor: Tensor) -> bool:
    """Whether what is done with a tensor now is captured as a CUDA graph, and runs when that is replayed.

    Args:
        tensor: On any device.

    Returns:
        Whether it is.
    """
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


LEAF = "torch::autograd::AccumulateGrad"
"""The name of a node that stands for a leaf tensor, its `variable`."""
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


@lru_cache(maxsize=1024)
def opaque_reason(kind: str) -> str | None:
    """Why the walk cannot see into a node of some name, or None if it can."""
    return next((reason for key, reason in _OPAQUE.items() if key in kind), None)


def routes_of(node: Node) -> tuple[Route, ...] | None:
    """Which output of a node comes from which input, where the node tells: custom Functions alone can."""
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
    return ordered(roots, children)


def ordered(roots: Iterable[T], below: Callable[[T], Iterable[T]]) -> list[T]:
    """Everything below some roots, each before what is below it.

    Args:
        roots: Where it starts.
        below: What is below one.

    Returns:
        All of them.
    """
    order: list[T] = []
    seen: set[T] = set()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        stack = [(root, iter(below(root)))]
        while stack:
            node, rest = stack[-1]
            for child in rest:
                if child not in seen:
                    seen.add(child)
                    stack.append((child, iter(below(child))))
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


def signed(node: Node, attribute: str) -> int:
    """A dimension or an index that a node keeps, which the graph has without its sign.

    Args:
        node: The node.
        attribute: Its name, `_saved_...`.

    Returns:
        The number; below 0 where it counts from the end.

    Raises:
        AttributeError: As of `saved`.
    """
    number = int(saved(node, attribute))
    return number - 2**64 if number >= 2**63 else number
