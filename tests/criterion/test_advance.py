"""Steps of the schedules: by the loop, by an optimizer, or both, once a step; and nobody at all is said."""

from __future__ import annotations

import warnings

import pytest
import torch

import headwise as hw
from headwise import losses


def falling(step: int) -> float:
    return 0.5**step


@pytest.fixture
def criterion() -> hw.Criterion:
    return hw.Criterion([hw.Term("a", losses.squared_error, output="y", target="t", weight=falling)])


class Loop:
    def __init__(self, criterion: hw.Criterion) -> None:
        self.criterion, self.leaf = criterion, torch.ones(3, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.leaf], lr=0.1)

    def step(self, order: str) -> float:
        """A step; returns its weight. `order`: a for `advance`, o for the optimizer."""
        breakdown = self.criterion({"y": self.leaf}, {"t": torch.zeros(3)})
        breakdown.total.backward()
        for each in order:
            self.criterion.advance() if each == "a" else self.optimizer.step()
        return float(breakdown["a"].weight)


@pytest.mark.parametrize("order", ["o", "oa", "ao"])
@pytest.mark.parametrize("booked", [False, True], ids=["", "booked"])
def test_an_optimizer_moves_the_schedules_on_once_a_step(criterion, order, booked):
    loop = Loop(criterion)
    ledger = hw.Ledger(criterion, optimizer=loop.optimizer) if booked else None
    handle = criterion.advance_with(loop.optimizer)
    assert [loop.step(order) for _ in range(4)] == [1, 0.5, 0.25, 0.125]
    handle.remove()
    loop.step("o")
    assert criterion.step == 4
    if ledger is not None:
        assert [books.step for books in ledger.history()] == list(range(5))
        assert [books["a"].weight for books in ledger.history()] == [1, 0.5, 0.25, 0.125, 0.0625]
        ledger.close()


def test_several_steps_at_once_are_no_step_of_the_optimizer(criterion):
    loop = Loop(criterion)
    criterion.advance_with(loop.optimizer)
    criterion.advance(3)
    assert loop.step("o") == 0.125
    assert criterion.step == 4


def test_a_schedule_that_stands_still_is_said_at_the_second_step(criterion):
    """Was: after a hundred calls, for a ledger that had seen every step of the optimizer."""
    loop = Loop(criterion)
    with hw.Ledger(criterion, optimizer=loop.optimizer):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loop.step("o")
        with pytest.warns(UserWarning, match="advance_with"):
            loop.step("o")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(100):
                loop.step("o")


def test_a_ledger_with_an_optimizer_leaves_training_as_it_is(criterion):
    weights = []
    for booked in (False, True):
        loop = Loop(criterion)
        ledger = hw.Ledger(criterion, optimizer=loop.optimizer) if booked else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weights.append([loop.step("o") for _ in range(3)])
        if ledger is not None:
            ledger.close()
    assert weights[0] == weights[1] == [1, 1, 1]
