"""What the passes of a script show without a second run: dropped, twice, detached, dead, not finite, exchanged."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import Node

from headwise.attribution.apart.sums.counts import added, links, most_added
from headwise.attribution.apart.sums.dissect import Anatomy
from headwise.attribution.apart.words import is_metric, plain_name, without_number
from headwise.attribution.ledger.books import UNBOOKED, Books
from headwise.criterion.sums.combine import SUM_OF_TERMS
from headwise.graph import gradient_edge, topological

_ROUNDED = 2**-8  # of bfloat16
_DECLARED = "the total of an hw.Criterion is one term here: its own books, as hw.Run writes them, have what it adds up"


class Notes:
    """Gathers what is said at the end of a run."""

    def __init__(self) -> None:
        self._absent: dict[str, None] = {}
        self._inside: dict[str, None] = {}
        self._used: set[str] = set()
        self._told: dict[str, None] = {}
        self._cut: dict[str, list[float]] = {}
        self._dead: dict[str, int] = {}
        self._off: dict[str, int] = {}
        self._trained: dict[str, list[str]] = {}
        self._lost: dict[str, None] = {}
        self._newest = self._current = -1
        self._waiting: dict[str, int] = {}

    def called(self, roots: Iterable[Tensor]) -> None:
        """Notes, of any pass, what it was called on: a loss that a pass before did not add may have one of its own.

        Args:
            roots: What backward was called on.
        """
        self._newest = self._current
        self._current = max(
            self._current, *(root.grad_fn._sequence_nr() for root in roots if root.grad_fn is not None), -1
        )
        for root in roots if self._waiting else ():
            added_now = {node._sequence_nr() for node, _ in added(gradient_edge(root))}
            found = [name for name, number in self._waiting.items() if number in added_now]
            self._used.update(found)
            for name in found:
                del self._waiting[name]

    def saw(self, anatomy: Anatomy, root: Tensor, is_early: bool) -> None:
        """Notes which losses the number of a pass does not add.

        Args:
            anatomy: What the number consists of.
            root: What backward was called on.
            is_early: Whether it is one of the first.
        """
        self._used |= {each.loss.name for each in anatomy.direct}
        self._used |= {each.name for group in anatomy.copies for each in group.losses}
        self._used |= {*anatomy.groups, *anatomy.whole}
        below: frozenset[Node] = frozenset()
        if is_early:
            self._twice(anatomy, root)
            below = _below(root)
            if any(node.name() == SUM_OF_TERMS for node in below):
                self._told[_DECLARED] = None
        for each in anatomy.absent:
            # What was computed before the pass before belongs to that.
            fresh = each.edge[0]._sequence_nr() > self._newest
            if fresh and "loss" in each.name.lower() and not is_metric(each.name):
                below = below or _below(root)
                (self._inside if each.edge[0] in below else self._absent)[each.name] = None
                self._waiting[each.name] = each.edge[0]._sequence_nr()

    def limited(self, site: str) -> None:
        """Notes that passes of a place reach some leaves alone.

        Args:
            site: Where backward was called.
        """
        self._told[
            f"backward in {site} is limited by inputs: gradient norms are those of what the losses read, whether the "
            "pass comes by there or not"
        ] = None

    def _twice(self, anatomy: Anatomy, root: Tensor) -> None:
        """Notes the losses that the number adds several times."""
        counts = added(gradient_edge(root))
        for each in anatomy.direct:
            place = most_added(links(each.loss.edge), counts)
            if place is not None and counts[place] > 1:
                self._told[f"{each.loss.name}: the number adds it {counts[place]} times"] = None

    def read(self, site: str, books: Books) -> None:
        """Notes what the books of a pass show.

        Args:
            site: Where backward was called.
            books: The books.
        """
        if books and all(term.finite and math.isnan(term.grad_norm) for term in books.values()):
            self._lost[site] = None
        for name, term in books.items():
            if not term.finite:
                self._told[f"{name}: the value or the gradient is not finite ({site})"] = None
            elif name == UNBOOKED and term.share and not term.grad_norm and not term.trained:
                self._cut.setdefault(site, []).append(abs(term.share))
            elif name != UNBOOKED:
                _count(self._off, name, term.weight == 0)
                if term.weight and term.outputs:
                    _count(self._dead, name, not term.grad_norm)
                    self._trained[name] = [path for path, each in term.outputs.items() if each.grad_norm]

    def lines(self, looked: str) -> list[str]:
        """What there is to say of the losses.

        Args:
            looked: How many of the passes the books looked at, if not at all.

        Returns:
            Sentences, the gravest first.
        """
        found = list(self._told)
        for site, shares in self._cut.items():
            much = " to ".join(dict.fromkeys(f"{share:.0%}" for share in (min(shares), max(shares))))
            small = ", or what a narrower type rounded off" if max(shares) < _ROUNDED else ""
            found.append(f"{much} of the number in {site} has no gradient: a constant, or a detached loss{small}")
        for counts, what in (
            (self._off, "its factor in the total is 0"),
            (self._dead, "its gradient is 0 at every output that it reads"),
        ):
            found += [f"{name}: {what}, in {_in_all(times)}" for name, times in counts.items() if times > 0]
        found += self._exchanged()
        inside = [name for name in self._inside if name not in self._used]
        if inside:
            found.append(f"in a number that is no sum of them, so that no weight is known: {', '.join(inside)}{looked}")
        for site in self._lost:
            found.append(
                f"no module or parameter that the losses of {site} read was found in the variables there, nor in the "
                "globals of those files, so that no gradient norm is known"
            )
        dropped = [name for name in self._absent if name not in {*self._used, *inside}]
        if dropped:
            found.append(f"computed, and in no number that backward was called on: {', '.join(dropped)}{looked}")
        return found

    def _exchanged(self) -> list[str]:
        """Losses that are called as one head and train the head of another, while that trains another's too."""
        heads = {plain_name(without_number(path)): path for paths in self._trained.values() for path in paths}
        own = {name: heads[plain_name(name)] for name in self._trained if plain_name(name) in heads}
        astray = {path: name for name, path in own.items() if path not in self._trained[name]}
        return [
            f"{name} trains {path}, and not {own[name]}: it bears the name of another loss"
            for name in astray.values()
            for path in self._trained[name]
            if path in astray
        ]


def _below(root: Tensor) -> frozenset[Node]:
    return frozenset(topological(node for node in (root.grad_fn,) if node is not None))


def _count(counts: dict[str, int], name: str, holds: bool) -> None:
    """Counts how often something holds; -1 once it did not."""
    before = counts.get(name, 0)
    counts[name] = before + 1 if before >= 0 and holds else -1


def _in_all(times: int) -> str:
    return f"all {times} booked passes" if times > 1 else "the one booked pass"
