"""Books for a criterion that Headwise did not write, without rewriting it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.foreign.calls import OutputEdges, Slices
from headwise.attribution.foreign.ledger import ForeignLedger
from headwise.attribution.outputs import resolve
from headwise.criterion.terms.paths import Slice
from headwise.graph import Edge, gradient_edge
from headwise.structure import by_path, describe


class Wrapped:
    """What `wrap` returns: called like the criterion, with a `ledger`.

    Args:
        criterion: The foreign criterion.
        names: Names for the losses of a tuple or list.
        reads: Per loss the paths of the outputs that are booked for it.
        capacity: How many steps the ledger holds.
    """

    def __init__(
        self,
        criterion: Callable[..., Any],
        names: Sequence[str],
        reads: Mapping[str, str | Sequence[str]],
        capacity: int,
    ) -> None:
        self.criterion, self.ledger = criterion, ForeignLedger(names, capacity)
        self._reads = reads

    def __call__(self, outputs: Any, *others: Any, **named: Any) -> Any:
        """Call the criterion, and note what it returns.

        Args:
            outputs: The network's outputs, the criterion's first argument.
            *others: Handed on.
            **named: Handed on.

        Returns:
            What the criterion returned, the same objects.
        """
        if not (torch.is_grad_enabled() and self.ledger.is_open):
            return self.criterion(outputs, *others, **named)
        # The edges before the call: an output that is overwritten in place stays what the network returned.
        places = places_of(outputs)
        slices = {name: slices_of(name, paths, outputs, places) for name, paths in self._reads.items()}
        returned = self.criterion(outputs, *others, **named)
        self.ledger.book(returned, lambda losses: places, places.values(), slices)
        return returned


def wrap(
    criterion: Callable[..., Any],
    names: Sequence[str] | None = None,
    reads: Mapping[str, str | Sequence[str]] | None = None,
    *,
    capacity: int = 1024,
) -> Wrapped:
    """Keep the books of a criterion that returns a loss, or a tuple, list or dict of losses, without rewriting it.

    In an unchanged loop::

        wrapped = headwise.attribution.wrap(criterion)
        losses = wrapped(outputs, targets)
        sum(losses.values()).backward()
        print(wrapped.ledger.read())

    The books are those of the number that backward is called on, whatever the loop made of the losses: when a pass
    begins, the number is taken apart (see `take_apart`), and each loss has the weight with which it is really in it. A
    total or a subtotal among what was returned gives way to its parts; a loss that was computed again, or divided for
    the log, is recognized by its graph, or by its gradient and value; a metric that is not in the number is no term.
    What belongs to no loss that was returned (a penalty, a learned log-variance, a loss without a graph) is the row
    ``unbooked``, so that the rows add up to the number. Where the criterion returned a total of its own, what the loop
    multiplied that by (a loss scale, 1 / accumulation) is divided out; where it did not, weights hold it.

    The backward pass stays the user's own, to the bit. The price is one extra pass per loss over that loss's own graph,
    from its value to the outputs and never through the network, when backward is called; and no host sync until the
    books are read. Each call is a row; several backward passes through one call add up. Passes of `torch.autograd.grad`
    alone are not booked. Not for use inside `torch.compile`: wrap the criterion outside of the compiled part.

    Args:
        criterion: Called as ``criterion(outputs, ...)``.
        names: Names for the losses of a tuple or list, in order.
        reads: Per loss the path (or paths) of the outputs that are booked for it, such as ``maps[:, 4]``. For a tuple
            without `names`, the keys name its losses in order.
        capacity: How many steps the ledger holds.

    Returns:
        The criterion, with a `ledger`.

    Raises:
        ValueError: The criterion is no function, or `names` or `reads` are of another form.
    """
    if not callable(criterion):
        raise ValueError(
            f"wrap: a criterion is a function of outputs that returns losses; found {type(criterion).__name__}. Hand "
            "over the function, not what it returned"
        )
    return Wrapped(criterion, *given_names("wrap", names, reads), capacity)


def given_names(what: str, names: Any, reads: Any) -> tuple[tuple[str, ...], Mapping[str, str | Sequence[str]]]:
    """The names of losses, and the outputs that are booked for them, as a caller gives them.

    Args:
        what: The function that asks, for the message.
        names: Names in order, or one; those of `reads` where there are none.
        reads: Per loss the path or paths of outputs.

    Returns:
        Both.

    Raises:
        ValueError: They are of another form.
    """
    if reads is not None and not isinstance(reads, Mapping):
        raise ValueError(
            f"{what}: reads is a dict from the name of a loss to the path, or paths, of what it reads; found "
            f"{describe(reads)}"
        )
    listed = (names,) if isinstance(names, str) else names if names is not None else ()
    if not isinstance(listed, Iterable) or isinstance(listed, Tensor) or not all(isinstance(n, str) for n in listed):
        raise ValueError(f"{what}: names is a list of the losses' names, in order; found {describe(names)}")
    return tuple(listed) or tuple(reads or ()), reads or {}


def places_of(outputs: Any) -> dict[str, Edge]:
    """Where each output's gradient enters the graph, by its path."""
    edges = {path: gradient_edge(tensor) for path, tensor in by_path(outputs).items()}
    return {path: edge for path, edge in edges.items() if edge is not None}


def slices_of(name: str, paths: str | Sequence[str], outputs: Any, places: OutputEdges) -> Slices:
    """The outputs that are booked for a loss, and which channels of them.

    Args:
        name: The loss.
        paths: The paths that were given for it.
        outputs: The outputs.
        places: Those that have a graph.

    Returns:
        Per output the slices; None is all of it.
    """
    found: dict[str, list[Slice | None]] = {}
    for text in [paths] if isinstance(paths, str) else paths:
        for path, channels in resolve(text, outputs, f"reads[{name!r}]"):
            if path in places:
                found.setdefault(path, []).append(channels)
    return found
