"""What the passes of a script show without a second run: dropped, twice, detached, dead, not finite, untrained."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from headwise.attribution.apart.counts import links_below, region
from headwise.attribution.apart.dissect import Anatomy
from headwise.attribution.apart.words import is_metric
from headwise.attribution.ledger.books import UNBOOKED, Books

_FIRST_STEPS = 5


class Notes:
    """Gathers what is said at the end of a run."""

    def __init__(self) -> None:
        self._absent: dict[str, int] = {}
        self._used: set[str] = set()
        self._untrained: dict[int, Tensor] | None = None
        self._told: dict[str, None] = {}
        self._dead: dict[str, int] = {}
        self._newest = -1
        self._steps = 0

    def saw(self, anatomy: Anatomy, root: Tensor) -> None:
        """Notes which losses the number of a pass does not add.

        Args:
            anatomy: What the number consists of.
            root: What backward was called on.
        """
        self._used |= {each.loss.name for each in anatomy.direct}
        self._used |= {each.name for group in anatomy.copies for each in group.losses}
        self._used |= {*anatomy.groups, *anatomy.whole}
        self._twice(anatomy, root)
        for each in anatomy.absent:
            # What was computed before the pass before belongs to that.
            fresh = each.edge[0]._sequence_nr() > self._newest
            if fresh and "loss" in each.name.lower() and not is_metric(each.name):
                self._absent[each.name] = self._absent.get(each.name, 0) + 1
        if root.grad_fn is not None:
            self._newest = max(self._newest, root.grad_fn._sequence_nr())

    def _twice(self, anatomy: Anatomy, root: Tensor) -> None:
        """Notes the losses that the number adds several times, in the first steps."""
        counts = region(root).counts if self._steps < _FIRST_STEPS else {}
        for each in anatomy.direct:
            times = max((counts.get(edge, 0) for edge in links_below(each.loss.edge)), default=0)
            if times > 1:
                self._told[f"{each.loss.name}: the number adds it {times} times"] = None

    def read(self, site: str, books: Books) -> None:
        """Notes what the books of a pass show.

        Args:
            site: Where backward was called.
            books: The books.
        """
        for name, term in books.items():
            if not term.finite:
                self._told[f"{name}: the value or the gradient is not finite ({site})"] = None
            elif name == UNBOOKED and term.share and not term.grad_norm:
                self._told[
                    f"{abs(term.share):.0%} of the number in {site} has no gradient: a constant, or a detached loss"
                ] = None
            elif name != UNBOOKED and term.weight == 0:
                self._told[f"{name}: its factor in the total is 0 ({site})"] = None
            elif name != UNBOOKED and term.outputs:
                dead = self._dead.get(name, 0)
                self._dead[name] = dead + 1 if dead >= 0 and not term.grad_norm else -1

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Notes which parameters an optimizer holds that got no gradient.

        Args:
            optimizer: About to step.
        """
        self._steps += 1
        if self._steps > _FIRST_STEPS:
            return
        held = [each for group in optimizer.param_groups for each in group["params"] if each.requires_grad]
        without = {id(each): each for each in held if each.grad is None}
        before = self._untrained if self._untrained is not None else {}
        others = {key: each for key, each in before.items() if all(each is not own for own in held)}
        same = without if self._steps == 1 or not before else {k: v for k, v in without.items() if k in before}
        self._untrained = others | same

    def lines(self, names: Iterable[tuple[str, Tensor]]) -> list[str]:
        """What there is to say.

        Args:
            names: The parameters of the models, by name.

        Returns:
            Sentences, the gravest first.
        """
        found = list(self._told)
        for name, times in self._dead.items():
            if times > 0:
                found.append(f"{name}: its gradient is 0 at every output that it reads, in all {times} booked passes")
        dropped = [name for name in self._absent if name not in self._used]
        if dropped:
            found.append(f"computed, and in no number that backward was called on: {', '.join(dropped)}")
        known = {id(each): name for name, each in names}
        untrained = [known.get(key, "a parameter without a name") for key in self._untrained or {}]
        if untrained:
            first = ", ".join(untrained[:4])
            more = f" and {len(untrained) - 4} more" if len(untrained) > 4 else ""
            found.append(f"in an optimizer, without a gradient in the first steps: {first}{more}")
        return found
