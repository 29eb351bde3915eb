"""Which nodes of a graph are linear in what they pass on, so that a sum can be followed through them."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from headwise.graph import LEAF, Edge, output_shapes, routes_of

SMALL = 256
"""The most elements of a weight that is learned, and of a stack of losses."""

_PASSING = (
    "Add", "Sub", "Rsub", "Neg", "Sum", "Mean", "Nansum", "Clone", "ToCopy", "CopyBackwards", "Squeeze", "Unsqueeze",
    "View", "Reshape", "UnsafeView", "Alias", "Expand", "Repeat", "Permute", "Transpose", "TBackward", "Select",
    "Slice", "Split", "Unbind", "Index", "Gather", "Flip", "Roll", "Diag", "Unfold", "AsStrided", "Stack", "Cat",
    "Where", "MaskedFill", "MaskedSelect", "MaskedScatter", "NanToNum", "Lerp", "Cumsum", "Trace", "Contiguous",
)  # fmt: skip
_PICKING = ("TopkB", "SortB", "KthvalueB", "MedianB", "NanmedianB", "MaxB", "MinB", "AmaxB", "AminB")
"""What hands on some elements of a tensor: the hardest samples of a loss, say."""
_NOT_PASSING = ("Addmm", "Addmv", "Addbmm", "Addr", "Addcmul", "Addcdiv", "SplitTanh", "IndexReduce", "SquaredRelu")
_PRODUCTS = ("MulBackward", "DivBackward", "DotBackward", "VdotBackward", "MvBackward")
_OF_VECTORS = ("MmBackward", "BmmBackward", "AddmmBackward")
"""Products whose result is one number where two vectors are multiplied: `einsum`, `F.linear`, ``row @ column``."""
_OF_ELEMENTS = ("AddcmulBackward", "AddcdivBackward")
STACKING = ("StackBackward0", "CatBackward0")
"""What makes one tensor of several."""
IN_PLACE = "torch::autograd::CopySlices"
"""What stands for an operation that wrote a part of a tensor; the operation itself it does not tell."""
_OF_WEIGHTS = (
    "Exp", "Log", "Neg", "Mul", "Div", "Pow", "Sqrt", "Rsqrt", "Reciprocal", "Softplus", "Softmax", "Sigmoid", "Select",
    "Slice", "Squeeze", "Unsqueeze", "View", "Reshape", "Add", "Sub", "Rsub", "Abs", "Relu", "Clamp", "Clone", "ToCopy",
    "Sum", "Mean", "Index", "Unbind", "Expand", "Stack", "Cat", "LogSoftmax", "Tanh", "Elu", "Permute", "Transpose",
    "TBackward",
)  # fmt: skip


def is_leaf(node: Node) -> bool:
    """Whether a node stands for a leaf of the graph."""
    return node.name() == LEAF


def size_of(edge: Edge) -> int | None:
    """How many elements the tensor at an edge has, or None where the graph does not tell."""
    shapes = output_shapes(edge[0])
    shape = shapes[edge[1]] if edge[1] < len(shapes) else None
    return None if shape is None else math.prod(shape)


class Linearity:
    """Says through which inputs of a node a sum can be followed.

    Args:
        wide: Whether tensors of any size are followed, or scalars and stacks of scalars only.
        ends: Edges at which the walk ends.
        known: Edges of losses that have a name: of a product of two things that are trained, the one that leads to
            such a loss is the loss and the other its weight.
    """

    def __init__(self, wide: bool, ends: Collection[Edge] = (), known: Collection[Edge] = ()) -> None:
        self._wide, self._ends, self._known = wide, frozenset(ends), frozenset(known)
        self._through: dict[Node, tuple[int, ...]] = {}
        self._narrow: dict[Edge, bool] = {}
        self._sizes: dict[Edge, int | None] = {}

    def through(self, node: Node) -> tuple[int, ...]:
        """The inputs that a node passes a sum on to.

        Args:
            node: A node of the graph.

        Returns:
            Their numbers; none where the walk ends at this node.
        """
        if node not in self._through:
            inputs = self._candidates(node)
            edges = {number: node.next_functions[number] for number in inputs}
            followed = tuple(n for n, (child, port) in edges.items() if child is None or self._follows((child, port)))
            # Beside losses, the penalty of weights that are learned together: ``exp(-s) * losses + s``.
            if followed and all(is_weight(edge) for number, edge in edges.items() if number not in followed):
                followed = inputs
            # What passes each input on by itself (DDP's sink: a loss beside logits) may pass on some of them.
            self._through[node] = followed if followed == inputs or routes_of(node) is not None else ()
        return self._through[node]

    def _candidates(self, node: Node) -> tuple[int, ...]:
        name = node.name()
        live = tuple(number for number, (child, _) in enumerate(node.next_functions) if child is not None)
        if routes_of(node) is not None:
            return live if name == "_DDPSinkBackward" else ()
        if name.startswith(_OF_ELEMENTS) or (name.startswith(_OF_VECTORS) and size_of((node, 0)) == 1):
            left, right = (child is not None for child, _ in node.next_functions[-2:])
            if left and right and len(node.next_functions) == 2:
                return self._loss_of(node)
            return () if right and (left or name.startswith("Addcdiv")) else live
        if name.startswith(_NOT_PASSING) or not live:
            return ()
        if name == IN_PLACE:
            return live if _is_affine(node) else ()
        if name.startswith(_PASSING):
            return live
        if name.startswith(_PICKING):  # of losses that were stacked, the picked one is no sum
            child = node.next_functions[0][0]
            return live if self._wide and child is not None and child.name() not in STACKING else ()
        if name.startswith(_PRODUCTS):
            return live if len(live) == 1 and (live[0] == 0 or not name.startswith("Div")) else self._loss_of(node)
        return ()

    def _follows(self, edge: Edge) -> bool:
        """Whether what lies at an input is small enough, or wide tensors are wanted."""
        if edge not in self._sizes:
            self._sizes[edge] = size_of(edge)
        if edge in self._ends or self._sizes[edge] == 1:
            return True
        return not is_leaf(edge[0]) if self._wide else self._is_stack(edge)

    def _is_stack(self, edge: Edge) -> bool:
        """Whether a tensor is made of scalars that were stacked."""
        if edge not in self._narrow:
            self._narrow[edge] = False  # a graph has no cycles; this guards against deep recursion on one path only
            size = self._sizes[edge]
            small = size is not None and size <= SMALL
            self._narrow[edge] = small and bool(self.through(edge[0]))
        return self._narrow[edge]

    def _loss_of(self, node: Node) -> tuple[int, ...]:
        """Of a product of two things that are trained: the loss, if the other is its weight."""
        left, right = node.next_functions[:2]
        weights = [0 if node.name().startswith("Div") else is_weight(left), is_weight(right)]
        if weights[0] != weights[1]:
            return (1,) if weights[0] > weights[1] else (0,)
        named = [self._leads_to_known(left), self._leads_to_known(right)]
        if sum(named) == 1 and not (node.name().startswith("Div") and named[1]):
            return (0,) if named[0] else (1,)
        return ()

    def _leads_to_known(self, edge: tuple[Node | None, int]) -> bool:
        stack, seen = [edge], set[Node]()
        while stack and len(seen) < SMALL:
            node, port = stack.pop()
            if node is None or node in seen:
                continue
            if (node, port) in self._known:
                return True
            seen.add(node)
            stack += [node.next_functions[number] for number in self.through(node)]
        return False


def _is_affine(node: Node) -> bool:
    """Whether a node that does not tell its operation is linear in its inputs: its derivative depends on none of them.

    A tensor that is written piece by piece (``loss[0] = box; loss[0] *= gain``) hides what was done to each piece.
    """
    formula: Any = node  # a node of autograd is its own formula, though its type does not say so
    entry = formula._input_metadata[0]
    with torch.enable_grad():
        found = formula(torch.ones(tuple(entry.shape), dtype=entry.dtype, device=entry.device))
    parts = found if isinstance(found, tuple) else (found,)
    return not any(part is not None and part.requires_grad for part in parts)


def is_weight(edge: tuple[Node | None, int]) -> int:
    """Whether an edge is an expression of a few small parameters: a weight that is learned, such as ``exp(-s)``.

    Args:
        edge: Where its gradient enters the graph.

    Returns:
        0 if it is none; 1 if it might as well be a small loss, as it sums something up; else 2.
    """
    root = edge[0]
    if root is None:
        return 0
    stack, seen, leaves = [root], {root}, 0
    while stack:
        node = stack.pop()
        sizes = [math.prod(shape) for shape in output_shapes(node) if shape is not None]
        if len(seen) > 32 or not sizes or max(sizes) > SMALL:
            return 0
        if is_leaf(node):
            leaves += sizes[0]
        elif not node.name().startswith(_OF_WEIGHTS) or node.name().startswith(_NOT_PASSING):
            return 0
        fresh = {child for child, _ in node.next_functions if child is not None} - seen
        seen |= fresh
        stack += fresh
    widest = max(max(math.prod(shape) for shape in output_shapes(node) if shape is not None) for node in seen)
    if not 0 < widest <= leaves:
        return 0
    return 1 if any(node.name().startswith(("Sum", "Mean")) for node in seen) else 2


def like(edge: Edge, gradient: Tensor) -> Tensor:
    """A gradient in the shape and dtype of what lies at an edge, as autograd casts and sums it.

    Args:
        edge: Where the gradient goes to.
        gradient: What a node returned for it.

    Returns:
        The gradient, summed over what was broadcast.
    """
    entry = edge[0]._input_metadata[edge[1]]
    shape = tuple(int(size) for size in entry.shape)
    return (gradient if gradient.shape == shape else gradient.sum_to_size(shape)).to(entry.dtype)
