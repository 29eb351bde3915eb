"""What computed a loss, in a word or two, for losses that have no name."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import Node

from headwise.graph import Edge, saved, signed

_STEPS = (
    "Mean", "Sum", "View", "Reshape", "Squeeze", "Unsqueeze", "Clone", "ToCopy", "Neg", "Mul", "Div", "Select",
    "Unbind",
)  # fmt: skip
_WORDS = {"nll_loss": "cross_entropy", "nll_loss_2d": "cross_entropy", "pow": "square", "leaf": "parameter"}


_OF_INPUTS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "LogBackward0": (torch.log, ("_saved_self",)),
    "Log1PBackward0": (torch.log1p, ("_saved_self",)),
    "AbsBackward0": (torch.abs, ("_saved_self",)),
    "SoftplusBackward0": (F.softplus, ("_saved_self", "_saved_beta", "_saved_threshold")),
    "PowBackward0": (torch.pow, ("_saved_self", "_saved_exponent")),
}
"""What keeps its input, and not what it made of it; a product may be a loss and its weight, which stand alone."""


def made_by(node: Node) -> str:
    """The operation that makes a loss what it is: ``cross_entropy``, ``abs``.

    Args:
        node: The node that computed it.

    Returns:
        The operation's name, without sums, factors and views after it; the name of the leaf's kind for a leaf.
    """
    current: Node | None = node
    last = node
    for _ in range(8):
        if current is None:
            break
        last = current
        if not current.name().startswith(_STEPS):
            break
        current = next((child for child, _ in current.next_functions if child is not None), None)
    name = _plain(last.name())
    if name == "nll_loss" or name == "nll_loss_2d":
        below = last.next_functions[0][0]
        return "cross_entropy" if below is not None and below.name().startswith("LogSoftmax") else "nll_loss"
    return _WORDS.get(name, name)


def _plain(name: str) -> str:
    name = name.rpartition("::")[2]
    name = "leaf" if name == "AccumulateGrad" else re.sub(r"Backward\w*$", "", name)
    return re.sub(r"(?<=[a-z])(?=[A-Z0-9])", "_", name).lower() or "unknown"


def kept_value(edge: Edge) -> Tensor | None:
    """What a node computed, where the graph keeps it.

    Args:
        edge: The node, and which of its results.

    Returns:
        Its value; the leaf itself, or an element of it, where the node stands for one.
    """
    node, port = edge
    operation = _OF_INPUTS.get(node.name())
    try:
        if operation is not None:
            inputs = [saved(node, each) for each in operation[1]]
            return None if any(each is None for each in inputs) else operation[0](*inputs).detach()
        child = node.next_functions[0][0] if node.name().startswith(("Unbind", "Select")) else node
        variable = getattr(child, "variable", None)
        if isinstance(variable, Tensor):
            leaf = variable.detach()
            if child is node:
                return leaf
            picks = node.name().startswith("Select")
            return leaf.unbind(signed(node, "_saved_dim"))[signed(node, "_saved_index") if picks else port]
        found = saved(node, "_saved_result")
    except (AttributeError, RuntimeError):
        return None
    return found.detach() if isinstance(found, Tensor) else None
