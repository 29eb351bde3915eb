"""Books for a model that computes its losses itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from headwise.attribution.ledger.wrap import ForeignLedger
from headwise.structure import by_path, mapped


class WatchedModel:
    """What `watch` returns: the books of a model's calls, in a `ledger`.

    Args:
        model: The model that returns losses.
        heads: The modules inside of it whose outputs are booked.
        names: Names for the losses of a tuple or list.
        reads: Per loss the paths of the outputs that are booked for it.
        capacity: How many steps the ledger holds.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: Sequence[str],
        names: Sequence[str] | None,
        reads: Mapping[str, str | Sequence[str]] | None,
        capacity: int,
    ) -> None:
        modules = _modules(model, heads)
        self.ledger = ForeignLedger(names or tuple(reads or ()), reads or {}, capacity)
        self._calls: dict[str, list[Any]] | None = None  # per head, what each of its calls returned
        self._edges: dict[int, GradientEdge] = {}  # by the identity of a tensor that is held in a call
        self._warned = False
        self._handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._begin),
            *(module.register_forward_hook(_Collect(self, name)) for name, module in modules.items()),
            model.register_forward_hook(self._end),
        ]

    def close(self) -> None:
        """Leave the model as it was; what was booked stays readable."""
        self.ledger.close()
        for handle in self._handles:
            handle.remove()

    def collect(self, head: str, output: Any) -> None:
        """Keep what a head returned in the present call of the model.

        Args:
            head: The head.
            output: Its output.
        """
        if self._calls is None:
            return
        self._calls.setdefault(head, []).append(mapped(output, lambda tensor: tensor))
        # The edges at once: an output that is overwritten in place stays what the head returned.
        tensors = [tensor for tensor in by_path(output).values() if tensor.requires_grad]
        self._edges |= {id(tensor): get_gradient_edge(tensor) for tensor in tensors}

    def _begin(self, model: nn.Module, inputs: Any) -> None:
        booked = model.training and torch.is_grad_enabled() and self.ledger.is_open
        self._calls = {} if booked and not torch.compiler.is_compiling() else None
        self._edges = {}

    def _end(self, model: nn.Module, inputs: Any, returned: Any) -> None:
        calls, edges = self._calls, self._edges
        self._calls, self._edges = None, {}
        if calls is None:
            return
        outputs = _nested(calls)
        places = {path: edges[id(tensor)] for path, tensor in by_path(outputs).items() if id(tensor) in edges}
        unreached = self.ledger.book(returned, outputs, places)
        if unreached and not self._warned:
            self._warned = True
            heads = ", ".join(calls) or "any head (none was called)"
            warnings.warn(
                f"watch: {', '.join(unreached)}: computed from no output of {heads}, so the gradient norm is booked as "
                "0. Name the module whose output is read",
                stacklevel=4,
            )


class _Collect:
    """A hook on a head."""

    def __init__(self, watched: WatchedModel, name: str) -> None:
        self._watched, self._name = watched, name

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._watched.collect(self._name, output)


def watch(
    model: nn.Module,
    heads: str | Sequence[str],
    *,
    names: Sequence[str] | None = None,
    reads: Mapping[str, str | Sequence[str]] | None = None,
    capacity: int = 1024,
) -> WatchedModel:
    """Keep the books of a model that returns its losses, such as torchvision's detectors, in an unchanged loop.

    ::

        watched = headwise.attribution.watch(detector, ["rpn.head", "roi_heads.box_predictor"])
        losses = detector(images, targets)
        sum(losses.values()).backward()
        print(watched.ledger.read())

    Every call of the model in training mode, with gradients enabled, is booked. The numbers, their meaning and their
    cost are those of `wrap`, taken at the outputs of the heads: the paths are ``rpn.head[0][2]`` and the like, and a
    head that a call uses several times has a list of outputs. Heads that are not needed for a loss cost nothing.
    Calls inside `torch.compile` are not booked. Under DDP give the model inside, ``ddp.module``.

    Args:
        model: Called as always; returns a loss, or a tuple, list or dict of losses, while it trains.
        heads: The modules (as in ``named_modules()``) whose outputs the losses read.
        names: Names for the losses of a tuple or list, in order.
        reads: Per loss the path (or paths) of the outputs that are booked for it; by default all that it was computed
            from.
        capacity: How many steps the ledger holds.

    Returns:
        The books: ``.ledger``, and ``.close()``.

    Raises:
        ValueError: No head is given, the model has no such module, or one head lies inside another.
    """
    return WatchedModel(model, [heads] if isinstance(heads, str) else heads, names, reads, capacity)


def _modules(model: nn.Module, heads: Sequence[str]) -> dict[str, nn.Module]:
    known = dict(model.named_modules(remove_duplicate=False))
    if not heads:
        raise ValueError(f"watch: no head is given. Name modules of {type(model).__name__} whose outputs losses read")
    for head in heads:
        if not head or head not in known:
            near = [name for name in known if name.rpartition(".")[2] == head.rpartition(".")[2] and name]
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"watch: {type(model).__name__} has no module {head!r}; see model.named_modules().{hint}")
        inner = [other for other in heads if other.startswith(f"{head}.")]
        if inner:
            raise ValueError(f"watch: the head {inner[0]!r} lies inside the head {head!r}. Name one of them")
    return {head: known[head] for head in heads}


def _nested(calls: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Each output where its head's path leads ("rpn.head" is ``["rpn"]["head"]``); several calls make a list."""
    outputs: dict[str, Any] = {}
    for head, found in calls.items():
        *path, last = head.split(".")
        place = outputs
        for name in path:
            place = place.setdefault(name, {})
        place[last] = found[0] if len(found) == 1 else found
    return outputs
