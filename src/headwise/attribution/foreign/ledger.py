"""The ledger of code that is not ours: each backward pass is taken apart beside the losses that calls returned."""

from __future__ import annotations

import warnings
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import RLock, get_ident
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.apart.naming.places import candidates_at
from headwise.attribution.apart.returned.entries import candidates, entries
from headwise.attribution.apart.sums.dissect import Anatomy, Candidate, dissect
from headwise.attribution.apart.sums.walk import walk_sum
from headwise.attribution.apart.words import numbered
from headwise.attribution.foreign.calls import ForeignCall, OutputEdges, Slices, number_of
from headwise.attribution.foreign.reading import read_calls
from headwise.attribution.foreign.taking import Taking
from headwise.attribution.ledger.books import UNBOOKED, Books
from headwise.attribution.passes import Finish, watch_backward, weakly
from headwise.graph import Edge, gradient_edge
from headwise.whole import check_whole

_WAITING = 16
"""How many calls wait for a backward pass: as long as they wait, their graph is kept."""
_LOCK = RLock()
"""Held while what is noted changes, for several threads may train. Of no ledger, so that these can be copied."""


class ForeignLedger:
    """Keeps the books of code that Headwise did not write; read it like a `Ledger`.

    See `wrap` for what its numbers mean and cost.

    Args:
        names: Names for the losses of a tuple or list.
        capacity: How many calls back the books reach.

    Raises:
        ValueError: The capacity is less than 1.
    """

    def __init__(self, names: Sequence[str] = (), capacity: int = 1024) -> None:
        check_whole("books", capacity=capacity)
        self._names = tuple(names)
        self._rows: list[ForeignCall] = []
        self._waiting: deque[ForeignCall] = deque(maxlen=_WAITING)
        self._count, self._capacity = 0, capacity
        self._missed = ""
        self._has_told = False
        self.is_open = True
        self._close = weakref.finalize(self, watch_backward(weakly(self._begin)).close)

    def book(
        self,
        returned: Any,
        outputs: Callable[[Sequence[Edge]], OutputEdges],
        fixed: Collection[Edge] = (),
        slices: Mapping[str, Slices] | None = None,
        unread: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        """Notes one call; the numbers follow with the backward pass.

        Args:
            returned: What the code returned.
            outputs: Given where losses are, tells where the outputs that they read enter the graph.
            fixed: Where outputs are known to be, whatever reads them.
            slices: Per loss the outputs that are booked for it, and which channels; without an entry all.
            unread: Is told of losses that read none of the outputs.

        Raises:
            ValueError: There is no loss in what was returned.
        """
        found = entries(returned, self._names)
        if not found:
            raise ValueError(
                f"wrap: a {type(returned).__name__} was returned, in which there is no loss. "
                "Return a scalar tensor, or a tuple, list or dict of them"
            )
        self._tell_unused([each.name for each in found])
        losses = tuple(own_names(candidates(found)))
        with _LOCK:
            self._waiting.append(ForeignCall(self._count, losses, outputs, frozenset(fixed), slices or {}, unread))
            self._count += 1
            self._rows = [call for call in self._rows if call.step >= self._count - self._capacity]

    def _tell_unused(self, found: Sequence[str]) -> None:
        """Says, once, that a name belongs to nothing that was returned: it is misspelt, or there are more or fewer."""
        unused = [] if self._has_told else [name for name in self._names if name not in found]
        if unused:
            self._has_told = True
            warnings.warn(
                f"wrap: {', '.join(map(repr, unused))} in names or reads is nothing that the criterion returned, which "
                f"is {', '.join(found)}. Give a name for each loss of a tuple or list; a dict has its keys",
                stacklevel=4,
            )

    def read(self) -> Books:
        """The books of the last step that a backward pass went through, by one transfer to the host.

        Returns:
            The books.

        Raises:
            RuntimeError: There is none yet.
        """
        books = self.history()
        if not books:
            names = [each.name for call in self._waiting for each in call.losses]
            held = f" ({', '.join(dict.fromkeys(names))})" if names else ""
            raise RuntimeError(
                f"the ledger is empty: no backward pass has gone through a loss that was returned{held}. {self._missed}"
                "Call backward on a number that adds them up"
            )
        return books[-1]

    def history(self) -> list[Books]:
        """The books of all steps that are still held, oldest first, by one transfer to the host."""
        with _LOCK:
            rows = [replace(each, passes=[*each.passes]) for each in self._rows]
        return read_calls(rows)

    def table(self) -> str:
        """The last step as a printable table."""
        return str(self.read())

    def close(self) -> None:
        """Ends the booking; what was booked stays readable."""
        self.is_open = False
        self._waiting.clear()
        self._close()

    def __reduce__(self) -> tuple[type[ForeignLedger], tuple[tuple[str, ...], int]]:
        """A copy, of a model that holds the criterion for instance, begins books of its own."""
        return type(self), (self._names, self._capacity)

    def _begin(self, roots: tuple[Tensor, ...], seeds: tuple[Tensor | None, ...]) -> Finish | None:
        """Takes a backward pass apart, before it runs."""
        begun = started(roots, seeds)
        calls = self._waiting_here()
        if not begun or not calls:
            return None
        anatomy = _dissected(begun, calls)
        reached = [number for number in range(len(calls)) if _of(anatomy, number).is_reached]
        if len(reached) == 1 and anatomy.rest and not (anatomy.direct or anatomy.copies):
            anatomy = _named(begun, anatomy, calls[reached[0]], f"{reached[0]}:")
        if not reached:
            self._missed = f"Backward was called on a tensor of shape {tuple(roots[0].shape)} that adds none of them. "
            return None
        number = number_of(begun)
        takings = [
            Taking(calls[each], _of(anatomy, each), number if reached == [each] else None, each == reached[-1], True)
            for each in reached
        ]
        # A call that is older than one that was trained now, and was not itself, is not waited for any more.
        older = {each.step for each in calls[: reached[0]]}
        with _LOCK:
            self._waiting = deque((each for each in self._waiting if each.step not in older), _WAITING)
        return partial(self._finish, takings)

    def _waiting_here(self) -> list[ForeignCall]:
        """The calls that a backward pass of this thread may be of: its own, if it has made any of those that wait."""
        with _LOCK:
            waiting = list(self._waiting)
        return [each for each in waiting if each.thread == get_ident()] or waiting

    def _finish(self, takings: Sequence[Taking], done: bool) -> None:
        for taking in takings:
            numbers = taking.over()
            if done:
                with _LOCK:
                    taking.call.passes.append(numbers)
                    if all(call is not taking.call for call in self._rows):
                        self._rows.append(taking.call)


def own_names(losses: Iterable[Candidate]) -> list[Candidate]:
    """Losses under names that are no row of the books: code may call one "unbooked"."""
    return [replace(each, name=numbered(UNBOOKED, 2)) if each.name == UNBOOKED else each for each in losses]


def started(roots: Sequence[Tensor], seeds: Sequence[Tensor | None]) -> list[tuple[Edge, Tensor, Tensor]]:
    """Where a pass begins, what it was called with, and on what.

    Args:
        roots: What backward was called on.
        seeds: What it was called with.

    Returns:
        The three, for each root that has a graph.
    """
    return [
        (edge, torch.ones_like(root.detach()) if seed is None else seed.detach(), root)
        for root, seed in zip(roots, seeds, strict=True)
        if (edge := gradient_edge(root)) is not None
    ]


def _dissected(begun: Sequence[tuple[Edge, Tensor, Tensor]], calls: Sequence[ForeignCall]) -> Anatomy:
    """The number beside the losses of all calls that wait, each tagged with the number of its call."""
    losses = [replace(each, name=f"{number}:{each.name}") for number, call in enumerate(calls) for each in call.losses]
    ends = {edge for call in calls for edge in call.fixed}
    return dissect([(edge, seed) for edge, seed, _ in begun], losses, outputs=ends)


def _named(begun: Sequence[tuple[Edge, Tensor, Tensor]], anatomy: Anatomy, call: ForeignCall, tag: str) -> Anatomy:
    """The summands of one number that a call returned, by the names that they got as they were made."""
    roots = [(edge, seed) for edge, seed, _ in begun]
    returned = {each.edge for each in call.losses}
    made = [each for each in candidates_at(walk_sum(roots).passed) if each.edge not in returned]
    found = dissect(roots, [replace(each, name=f"{tag}{each.name}") for each in made], outputs=call.fixed)
    call.names_rest = bool(made)
    return replace(anatomy, direct=found.direct, copies=found.copies, rest=found.rest)


def _of(anatomy: Anatomy, number: int) -> Anatomy:
    """What a total holds of one call, under the names of that call; the rest is left as it is."""
    tag = f"{number}:"

    def own(name: str) -> bool:
        return name.startswith(tag)

    def bare(loss: Candidate) -> Candidate:
        return replace(loss, name=loss.name[len(tag) :])

    return Anatomy(
        tuple(replace(each, loss=bare(each.loss)) for each in anatomy.direct if own(each.loss.name)),
        tuple(
            replace(each, losses=tuple(bare(loss) for loss in each.losses))
            for each in anatomy.copies
            if all(own(loss.name) for loss in each.losses)
        ),
        anatomy.rest,
        {
            name[len(tag) :]: tuple(part[len(tag) :] for part in parts)
            for name, parts in anatomy.groups.items()
            if own(name)
        },
        tuple(name[len(tag) :] for name in anatomy.whole if own(name)),
        tuple(bare(each) for each in anatomy.absent if own(each.name)),
        {name[len(tag) :]: derivative for name, derivative in anatomy.totals.items() if own(name)},
    )
