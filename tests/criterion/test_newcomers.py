"""What newcomers mistake: the error says what is meant."""

import math
import re
from typing import Any

import pytest
import torch
from torch import nn

import headwise as hw
from headwise import losses

Criterion: Any = hw.Criterion  # given what no type checker would let pass
Ledger: Any = hw.Ledger
Run: Any = hw.Run
Term: Any = hw.Term


def depth(loss: Any = losses.squared_error, normalizer: Any = None) -> Any:
    return Criterion([Term("depth", loss, normalizer, output="y", target="t")])


MISTAKES = {
    "the class of a loss": (lambda _: depth(nn.MSELoss), "term 'depth': the loss is the class MSELoss. Give one"),
    "targets for outputs": (
        lambda _: depth()({"y": torch.zeros(3)}, {"t": torch.zeros(3, requires_grad=True)}),
        "term 'depth': .* as if one stood for the other",
    ),
    "a loss for a criterion": (lambda _: Ledger(nn.MSELoss()), "books of a Criterion; found MSELoss"),
    "a network for an optimizer": (lambda _: Ledger(depth(), optimizer=nn.Linear(1, 1)), "Optimizer.*found Linear"),
    "a criterion for a ledger": (lambda folder: Run(folder / "run", depth()), "is a Ledger, found Criterion"),
    "steps back": (lambda _: depth().advance(-1), "whole number from 0; found -1"),
    "half a step": (lambda _: depth().advance(1.5), "whole number from 0; found 1.5"),
    "a table for its total": (
        lambda _: depth()({"y": torch.zeros(3)}, {"t": torch.zeros(3)}).backward(),
        r"breakdown\.total\.backward\(\)",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake(name, tmp_path):
    mistake, words = MISTAKES[name]
    with pytest.raises((ValueError, TypeError)) as raised:
        mistake(tmp_path)
    assert re.search(words, str(raised.value)), raised.value
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [math.inf, math.nan, -1.0])
def test_a_count_that_no_sum_is_divided_by(number):
    """Infinity made the value 0, with no gradient, without a word."""
    reads = {"y": torch.ones(3, requires_grad=True)}, {"t": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"term 'depth': the normalizer: .* finite number from 0; found"):
        depth(normalizer=lambda target, mask: torch.tensor(number))(*reads)
    with pytest.raises(ValueError, match=r"term 'depth': its denominator: .* finite number from 0; found"):
        depth()(*reads, {"depth": torch.tensor(number)})


def test_books_of_a_compiled_criterion():
    criterion = depth()
    compiled: Any = torch.compile(criterion, backend="eager")
    with hw.Ledger(compiled) as ledger:
        compiled({"y": torch.ones(3, requires_grad=True)}, {"t": torch.zeros(3)}).total.backward()
        assert ledger.read()["depth"].value == 1
