"""Plain numbers of the code by which losses were multiplied, as far as the graph keeps them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import Node

from headwise.attribution.apart.sums.counts import PASSING, factors_of, links, parts_of
from headwise.attribution.apart.sums.linear import size_of
from headwise.graph import Edge, gradient_edge, ordered


def is_silenced(loss: Tensor) -> bool:
    """Whether all of a loss was multiplied by a number of the code (not of the batch) that is zero."""

    def below(edge: Edge) -> tuple[Edge, ...]:
        return () if has_literal_zero(edge[0]) else parts_of(edge, deep=False)

    root = gradient_edge(loss)
    found = ordered([] if root is None else [root], below)
    return bool(found) and all(has_literal_zero(edge[0]) or below(edge) for edge in found)


def has_literal_zero(node: Node) -> bool:
    """Whether a node multiplies by a number of the code that is zero."""
    if node.name() != "MulBackward0":
        return False
    return any(value.numel() == 1 and _is_literal(value) and not value.item() for value in factors_of(node))


def _is_literal(factor: Tensor) -> bool:
    """Whether a factor is a number of Python's: it is kept in the widest type, but gives way to that of any tensor."""
    narrow = torch.zeros((), dtype=torch.float32 if factor.is_floating_point() else torch.int32)
    return factor.dtype in (torch.float64, torch.int64) and torch.result_type(factor, narrow) != factor.dtype


def literal_factors(loss: Tensor) -> tuple[float, ...]:
    """The plain numbers that a loss was multiplied by last."""
    found = []
    for node, _ in links(gradient_edge(loss)):
        if node.name() == "MulBackward0":
            found += [float(value) for value in factors_of(node) if value.numel() == 1 and value.device.type == "cpu"]
        elif size_of((node, 0)) != 1 or not node.name().startswith(PASSING):
            break
    return tuple(found)
