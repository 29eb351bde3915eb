"""Books for a model that computes its losses itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from headwise.attribution.apart.naming.places import PlaceRecorder
from headwise.attribution.apart.returned.entries import candidates, entries
from headwise.attribution.apart.sums.heads import heads_below, leaving, names_of
from headwise.attribution.foreign.calls import OutputEdges
from headwise.attribution.foreign.ledger import ForeignLedger
from headwise.attribution.foreign.wrap import given_names, slices_of
from headwise.graph import Edge, gradient_edge
from headwise.refusals import refuse_no_model
from headwise.structure import by_path, mapped


class Watched:
    """What `watch` returns: the books of a model's calls, in a `ledger`.

    Args:
        model: The model that returns losses.
        heads: The modules inside of it whose outputs are booked, by name; none: where the graph leaves the last modules
            with parameters.
        names: Names for the losses of a tuple or list.
        reads: Per loss the paths of the outputs that are booked for it.
        capacity: How many steps the ledger holds.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: Mapping[str, nn.Module],
        names: Sequence[str],
        reads: Mapping[str, str | Sequence[str]],
        capacity: int,
    ) -> None:
        self.ledger = ForeignLedger(names, capacity)
        self._reads, self._automatic = reads, not heads
        self._owners = names_of({"model": model}) if not heads else {}
        self._calls: dict[str, list[Any]] | None = None  # per head, what each of its calls returned
        self._edges: dict[int, Edge | None] = {}  # by the identity of a tensor that is held in a call
        self._warned = False
        # Summands of one number have names and values only where it is computed; compiled parts would compile anew.
        self._one_number = not any(_is_compiled(module) for module in model.modules())
        self._places: PlaceRecorder | None = None
        self._handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._begin),
            *(module.register_forward_hook(partial(self._collect, name)) for name, module in heads.items()),
            model.register_forward_hook(self._leave, always_call=True),
            model.register_forward_hook(self._end),
        ]

    def __reduce__(self) -> tuple[Callable[[], Watched], tuple[()]]:
        """A copy of the model takes its hooks along, but it is another model, which nobody asked to watch."""
        return _closed, ()

    def close(self) -> None:
        """Leave the model as it was; what was booked stays readable."""
        self.ledger.close()
        for handle in self._handles:
            handle.remove()

    def _begin(self, model: nn.Module, inputs: Any) -> None:
        booked = model.training and torch.is_grad_enabled() and self.ledger.is_open
        self._calls = {} if booked and not torch.compiler.is_compiling() else None
        self._edges = {}
        if self._calls is not None and self._one_number and self._places is None:
            self._places = PlaceRecorder()
            self._places.enter()

    def _leave(self, model: nn.Module, inputs: Any, returned: Any) -> None:
        """Ends the recording of places, also where the call raised."""
        places, self._places = self._places, None
        if places is not None:
            places.leave()
        if places is not None and returned is not None:
            found = candidates(entries(returned))
            self._one_number = len(found) == 1 or sum(each.tensor.numel() == 1 for each in found) == 1

    def _collect(self, head: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Keep what a head returned in the present call of the model."""
        if self._calls is None:
            return
        self._calls.setdefault(head, []).append(mapped(output, lambda tensor: tensor))
        # The edges at once: an output that is overwritten in place stays what the head returned.
        self._edges |= {id(tensor): gradient_edge(tensor) for tensor in by_path(output).values()}

    def _end(self, model: nn.Module, inputs: Any, returned: Any) -> None:
        calls, edges = self._calls, self._edges
        self._calls, self._edges = None, {}
        if calls is None:
            return
        outputs = _nested(calls)
        found = {path: edges.get(id(tensor)) for path, tensor in by_path(outputs).items()}
        places = {path: edge for path, edge in found.items() if edge is not None}
        slices = {name: slices_of(name, paths, outputs, places) for name, paths in self._reads.items()}
        if self._automatic:
            self.ledger.book(returned, self._leaving)
            return
        losses = [each.edge for each in candidates(entries(returned))]
        unread = partial(self._unread, ", ".join(calls) or "any head (none was called)", losses)
        self.ledger.book(returned, lambda losses: places, places.values(), slices, unread)

    def _leaving(self, losses: Sequence[Edge]) -> OutputEdges:
        """Where the graph of losses leaves the last modules with parameters."""
        hidden = heads_below(losses, self._owners).opaque
        if hidden:
            self._warn(f"{'; '.join(hidden)}: outputs behind it are not booked")
        return leaving(losses, self._owners)

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"watch: {text}", stacklevel=2)

    def _unread(self, heads: str, losses: Sequence[Edge], names: Sequence[str]) -> None:
        hidden = heads_below(losses, {}).opaque
        self._warn(
            f"{', '.join(names)}: computed from no output of {heads} that the graph shows, so the gradient norm is not "
            f"known. {'; '.join(hidden) or 'Name the module whose output is read'}"
        )


def _closed() -> Watched:
    closed = Watched(nn.Module(), {}, (), {}, 1)
    closed.close()
    return closed


def watch(
    model: nn.Module,
    heads: str | Sequence[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    reads: Mapping[str, str | Sequence[str]] | None = None,
    capacity: int = 1024,
) -> Watched:
    """Keep the books of a model that returns its losses, such as torchvision's detectors, in an unchanged loop.

    ::

        watched = headwise.attribution.watch(detector)
        losses = detector(images, targets)
        sum(losses.values()).backward()
        print(watched.ledger.read())

    Every call of the model in training mode, with gradients enabled, is noted, and booked when a backward pass comes
    by. The numbers, their meaning and their cost are those of `wrap`. Without `heads` they are taken where the graph of
    a loss leaves the last modules with parameters, under the names of those modules. With `heads` they are taken at the
    outputs of the modules that are named: the paths are ``rpn.head[0][2]`` and the like, and a head that a call uses
    several times has a list of outputs. A model that returns one number (as Hugging Face models do) has a term per
    summand of it, named by what computed it and from which head. Calls inside `torch.compile` are not noted; what a
    compiled model returns is booked as far as its graph shows. Under DDP give the model inside, ``ddp.module``.

    Args:
        model: Called as always; returns a loss, or a tuple, list or dict of losses, while it trains.
        heads: The modules (as in ``named_modules()``) whose outputs the losses read; a pattern such as
            ``heads.*.final`` stands for all that it fits, a `ModuleList` or `ModuleDict` for the modules in it.
        names: Names for the losses of a tuple or list, in order.
        reads: Per loss the path (or paths) of the outputs that are booked for it; by default all that it was computed
            from. Needs `heads`.
        capacity: How many steps the ledger holds.

    Returns:
        The books: ``.ledger``, and ``.close()``.

    Raises:
        ValueError: The model is no module, no head is given, the model has no such module, one head lies inside
            another, or `reads` is given without `heads`.
    """
    refuse_no_model("watch", model, "The books of a function that returns losses are kept by attribution.wrap")
    losses, paths = given_names("watch", names, reads)
    named = [heads] if isinstance(heads, str) else list(heads or ())
    if heads is not None and not named:
        raise ValueError(
            f"watch: no head is given. Name modules of {type(model).__name__} whose outputs losses read, or leave "
            "heads out: then they are found in the graph"
        )
    if reads and not named:
        raise ValueError("watch: reads names outputs of heads, but no head is given. Name the heads too")
    return Watched(model, _modules(model, named), losses, paths, capacity)


def _modules(model: nn.Module, heads: Sequence[str]) -> dict[str, nn.Module]:
    known = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, nn.Module] = {}
    for head in heads:
        fitting = [name for name in known if name and fnmatchcase(name, head)] if "*" in head else [head]
        fitting = [name for name in fitting if head.count(".") == name.count(".")] if "*" in head else fitting
        if not fitting or not all(name in known and name for name in fitting):
            near = [name for name in known if name.rpartition(".")[2] == head.rpartition(".")[2] and name]
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"watch: {type(model).__name__} has no module {head!r}; see model.named_modules().{hint}")
        for name in fitting:
            found |= _opened(name, known[name])
    for head in (*heads, *found):
        inner = [
            other for other in (*heads, *found) if other.startswith(f"{head}.") and (head in found or other in heads)
        ]
        if inner:
            raise ValueError(f"watch: the head {inner[0]!r} lies inside the head {head!r}. Name one of them")
    return found


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None


def _opened(name: str, module: nn.Module) -> dict[str, nn.Module]:
    """The module, or those inside of a container, which is never called itself."""
    if not isinstance(module, nn.ModuleList | nn.ModuleDict):
        return {name: module}
    return {
        full: part for key, child in module.named_children() for full, part in _opened(f"{name}.{key}", child).items()
    }


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
