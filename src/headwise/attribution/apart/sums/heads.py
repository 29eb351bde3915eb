"""Which outputs of a network a loss reads, from the graph alone: where it leaves the last module with parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.autograd.graph import Node

from headwise.attribution.apart.sums.linear import is_leaf
from headwise.graph import Edge, opaque_reason

_VIEWS = ("TBackward", "Transpose", "Permute", "View", "Reshape", "ToCopy", "Unsqueeze", "Squeeze", "Expand", "Clone")
_CHECKPOINT = "CheckpointFunctionBackward"


@dataclass(frozen=True)
class Heads:
    """The modules whose outputs losses read.

    Args:
        edges: Per head the places where its outputs enter the graph.
        opaque: Why parameters may be hidden, where a part of the graph cannot be seen into.
    """

    edges: Mapping[str, tuple[Edge, ...]]
    opaque: tuple[str, ...] = ()


def names_of(models: Mapping[str, nn.Module]) -> dict[int, tuple[str, ...]]:
    """Under which modules each parameter is found.

    Args:
        models: The models by name; with several, the name of a module begins with that of its model.

    Returns:
        By the identity of the parameter, the names of the modules that own it; "" is the only model itself.
    """
    found: dict[int, tuple[str, ...]] = {}
    for prefix, model in models.items():
        for name, module in model.named_modules():
            for parameter in module.parameters(recurse=False):
                full = ".".join(filter(None, (prefix if len(models) > 1 else "", name)))
                found[id(parameter)] = (*found.get(id(parameter), ()), full)
    return found


def leaving(edges: Sequence[Edge], owners: Mapping[int, tuple[str, ...]]) -> dict[str, Edge]:
    """Where the graph of losses leaves the last modules with parameters, by the paths of these outputs.

    Args:
        edges: Where the losses are.
        owners: Which modules own a parameter; see `names_of`.

    Returns:
        The edges by the names of the modules; several of one module are numbered, ``head[0]``.
    """
    return {
        f"{name or 'model'}[{number}]" if len(found) > 1 else name or "model": edge
        for name, found in heads_below(edges, owners).edges.items()
        for number, edge in enumerate(found)
    }


def heads_below(edges: Sequence[Edge], owners: Mapping[int, tuple[str, ...]]) -> Heads:
    """Follows losses down to the first operations that use a parameter.

    Args:
        edges: Where the losses are.
        owners: Which modules own a parameter; see `names_of`.

    Returns:
        The heads, in the order of their names.
    """
    found: dict[str, dict[Edge, None]] = {}
    opaque: dict[str, None] = {}
    starts = frozenset(edges)
    stack, seen = list(edges), set(edges)
    while stack:
        node, port = stack.pop()
        modules = [owners[id(leaf)] for leaf in _parameters(node) if id(leaf) in owners]
        reason = opaque_reason(node.name())
        if reason is not None and (not modules or (node, port) in starts):
            opaque[f"{reason}; the loss itself is computed in it" if modules else reason] = None
        if modules:
            found.setdefault(_common(modules), {})[node, port] = None
            continue
        if _CHECKPOINT in node.name():
            # A pass that is to end below it cannot run through it: what it returns is the output, if it is no loss.
            if (node, port) not in starts:
                found.setdefault("checkpoint", {})[node, port] = None
            continue
        for child, number in node.next_functions:
            if child is not None and (child, number) not in seen:
                seen.add((child, number))
                stack.append((child, number))
    return Heads({name: tuple(found[name])[::-1] for name in sorted(found)}, tuple(opaque))


def _parameters(node: Node) -> list[object]:
    """The leaves that an operation uses as they are, or behind a view or a cast."""
    found = []
    for child, _ in node.next_functions:
        steps = 0
        while child is not None and not is_leaf(child) and steps < 4 and child.name().startswith(_VIEWS):
            child, steps = child.next_functions[0][0], steps + 1
        if child is not None and is_leaf(child):
            found.append(child.variable)  # type: ignore[attr-defined]
    return found


def _common(modules: Sequence[tuple[str, ...]]) -> str:
    """The module that owns all parameters of an operation; of a tied one that which owns the others too."""
    shared = set(modules[0]).intersection(*modules[1:])
    if shared:
        return min(shared, key=modules[0].index)
    parts = [owners[-1].split(".") for owners in modules]
    same = [each[0] for each in zip(*parts, strict=False) if len(set(each)) == 1]
    return ".".join(same)


def short(path: str) -> str:
    """The last two parts of a module's name, for names of losses."""
    return ".".join(path.split(".")[-2:])
