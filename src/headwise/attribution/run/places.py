"""Places in the code that call backward, and the tables that they have: the passes of one step, side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from torch import Tensor
from torch.autograd.graph import Node

from headwise.attribution.apart.sums.linear import is_leaf
from headwise.attribution.apart.words import numbered, without_number
from headwise.attribution.ledger.books import UNBOOKED, Books
from headwise.attribution.run.together import less, together
from headwise.graph import topological

_MANY = 16
"""Passes of one step at one place that are all booked: losses that have a pass each. Micro-batches may be more."""


@dataclass
class CallSite:
    """A place in the code that calls backward.

    Args:
        name: Function, file and line.
        passes: How many passes began there.
        booked: How many were booked.
        table: The last in which it has passes; None before the first.
        hidden: Why outputs are not known, where a part of the graph cannot be seen into.
    """

    name: str
    passes: int = 0
    booked: int = 0
    table: StepTable | None = None
    hidden: tuple[str, ...] = ()
    _step: int = -1
    _steps: int = 0
    _in_step: int = 0
    _shown: dict[str, str] = field(default_factory=dict)
    _heads: dict[str, list[set[str]]] = field(default_factory=dict)
    _given: set[str] = field(default_factory=set)

    def is_called_again(self, step: int) -> bool:
        """Whether it has called backward in this step before."""
        return self._step == step

    def called(self, step: int) -> None:
        """Counts a pass.

        Args:
            step: The step in which it begins.
        """
        self.passes += 1
        if not self.is_called_again(step):
            self._step, self._in_step, self._given = step, 0, set()
            self._steps += 1
        self._in_step += 1

    def is_booked(self, every: int) -> bool:
        """Whether the pass that was counted last is to be booked: it is of every N-th step."""
        return (self._steps - 1) % every == 0 and (self._in_step <= _MANY or (self._in_step - 1) % every == 0)

    def will_be_booked(self, every: int, step: int) -> bool:
        """Whether its next pass may be booked, if that is of this step or the next."""
        return self._steps % every == 0 or (self.is_called_again(step) and (self._steps - 1) % every == 0)

    def names_of(self, books: Books, taken: Collection[str]) -> dict[str, str]:
        """What the terms of its books are called: losses of one name that read other heads in one step are numbered.

        Args:
            books: The books of a pass.
            taken: Names that other places have given.

        Returns:
            The names, each once.
        """
        found: dict[str, str] = {}
        for name, term in books.items():
            own = name if name == UNBOOKED else self._told_apart(name, {without_number(path) for path in term.outputs})
            place = self.name.rpartition(", ")[2]
            found[name] = self._shown.setdefault(own, f"{own} ({place})" if own in taken and own != UNBOOKED else own)
        return found

    @property
    def shown(self) -> Collection[str]:
        """The names that it has given."""
        return self._shown.values()

    def _told_apart(self, name: str, heads: set[str]) -> str:
        known = self._heads.setdefault(name, [])
        number = next((nr for nr, each in enumerate(known) if not each or not heads or each & heads), None)
        if number is None and (not known or len(known) > 1 or name in self._given) and len(known) < _MANY:
            known.append(set())
            number = len(known) - 1
        if number is not None:
            known[number] |= heads
        self._given.add(name)
        return numbered(name, (number or 0) + 1)


@dataclass
class StepTable:
    """The books of passes of one step.

    Args:
        step: The step.
        parts: The places and their books, in order.
        overtaken: Whether a loss had several passes; the last of them stands here.
    """

    step: int
    parts: list[tuple[CallSite, Books]] = field(default_factory=list)
    overtaken: bool = False

    @property
    def sites(self) -> list[CallSite]:
        """The places."""
        return list({id(site): site for site, _ in self.parts}.values())

    @property
    def books(self) -> Books:
        """All of them as one table."""
        return together([books for _, books in self.parts])

    def put(self, site: CallSite, books: Books) -> None:
        """Adds a pass.

        Args:
            site: Its place.
            books: Its books.
        """
        before = self.parts
        left = [(other, less(each, books.keys()) if other is site else each) for other, each in before]
        self.overtaken |= any(kept is not each for (_, kept), (_, each) in zip(left, before, strict=True))
        self.parts = [*((other, kept) for other, kept in left if kept is not None), (site, books)]


@dataclass
class Gradients:
    """What the passes of a step have left in the parameters: whether a later one adds to that."""

    _left: dict[int, tuple[int, int]] = field(default_factory=dict)

    def left_by(self, leaves: Iterable[Tensor]) -> None:
        """Notes what there is after a pass.

        Args:
            leaves: What the pass reached.
        """
        self._left = {id(leaf): (id(leaf.grad), leaf.grad._version) for leaf in leaves if leaf.grad is not None}

    def are_added_to(self, leaves: Iterable[Tensor]) -> bool:
        """Whether a pass adds to what was left, and nobody has cleared that.

        Args:
            leaves: What the pass will reach.
        """
        return any(
            self._left.get(id(leaf)) == (id(leaf.grad), leaf.grad._version) for leaf in leaves if leaf.grad is not None
        )


def leaves_below(roots: Iterable[Node | None]) -> list[Tensor]:
    """The leaves that a pass reaches.

    Args:
        roots: The nodes where it begins.

    Returns:
        The leaves, each once.
    """
    below = topological(node for node in roots if node is not None)
    return [node.variable for node in below if is_leaf(node)]  # type: ignore[attr-defined]
