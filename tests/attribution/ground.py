"""What loops in manners of their own stand on: a network with books, and notes to judge these by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import headwise as hw
from tests.attribution.loops import NAMES, Found, Heads, Program, Session, batch_of, expected, terms

WEIGHTS = {"a": 1.0, "b": 0.5, "c": 2.0}


class Ground:
    """A network with a criterion, a ledger and an optimizer, and notes of what a loop did with them."""

    def __init__(self) -> None:
        self.network, self.criterion = Heads(7), hw.Criterion(terms(WEIGHTS))
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01)
        self.ledger = hw.Ledger(self.criterion, optimizer=self.optimizer)
        self.sizes: list[int] = []
        self.found = Found()

    def call(self, size: int = 3, network: nn.Module | None = None) -> tuple[dict[str, Tensor], Any, dict[str, Tensor]]:
        """One call of the criterion, on a batch of its own."""
        self.sizes.append(size)
        x, targets = batch_of(Program(len(self.sizes), (size,)), 0)
        outputs = (network or self.network)(x)
        return outputs, self.criterion(outputs, targets), targets

    def note(self, outputs: dict[str, Tensor], targets: dict[str, Tensor], factor: float | dict[str, float]) -> None:
        """What the loop multiplies a call's total by, or the values of its terms."""
        self.found.totals.append(None if isinstance(factor, dict) else factor)
        factors = factor if isinstance(factor, dict) else {name: factor * WEIGHTS[name] for name in NAMES}
        self.found.factors.append(dict(factors))
        self.found.batches.append(({name: each.detach() for name, each in outputs.items()}, targets))

    def end(self, outputs: dict[str, Tensor], breakdown: Any, targets: dict[str, Tensor]) -> None:
        """Ends a step as most loops do, from the total alone, and checks its books."""
        breakdown.total.backward()
        self.optimizer.step()
        self.note(outputs, targets, 1.0)
        self.check()

    def check(self, *, balanced: bool = True, norms: bool = True, books: Any = None) -> Any:
        """The last step's books beside the notes of its calls."""
        sizes = tuple(len(targets["b"]) for _, targets in self.found.batches)
        wanted = expected(Program(0, sizes), Session(0, [], WEIGHTS), self.found)
        books = books or self.ledger.read()
        for name in NAMES:
            found = books[name]
            assert found.value == pytest.approx(wanted[name]["value"], rel=1e-6), f"value of {name}"
            assert found.weight == pytest.approx(wanted[name]["weight"], rel=1e-6, abs=1e-12), f"weight of {name}"
            if norms:
                assert found.grad_norm == pytest.approx(wanted[name]["norm"], rel=1e-6, abs=1e-9), f"norm of {name}"
        assert books.balanced == balanced, books.unbooked
        self.found = Found()
        return books


def tried(loop: Callable[[Ground], None]) -> None:
    """Runs a loop on ground of its own."""
    ground = Ground()
    try:
        loop(ground)
    finally:
        ground.ledger.close()
