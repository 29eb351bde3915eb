"""A Gram prints as a table, like every other table of attribution."""

import math

import pytest
import torch

import headwise as hw
from headwise.attribution.gram import TOTAL, Gram, Where
from headwise.losses import squared_error


def test_it_prints_as_a_table():
    squares = {("box", "maps"): 1.0, ("class", "maps"): 4.0, ("mask", "other"): 9.0}
    values, weights = {"box": 1.0, "class": 2.0, "mask": 0.5}, {"box": 1.0, "class": 0.5, "mask": 1.0}
    table = Gram.of_pairs(squares, {("box", "class", "maps"): -1.0}, values, weights, Where(step=3))
    head, names, _, *rows = str(table).splitlines()
    assert head == "step 3, local, at outputs, exact"
    assert " ".join(names.split()) == "term value weight share norm with box with class with mask"
    assert [row.split() for row in rows] == [
        ["box", "1", "1", "40.0%", "1", "-0.50"],
        ["class", "2", "0.5", "40.0%", "2", "-0.50"],
        ["mask", "0.5", "1", "20.0%", "3"],
    ]
    assert repr(table) == str(table)


def test_a_term_that_is_called_total_is_not_the_total():
    """Its books had the norm of what arrived, under its own value."""
    terms = [hw.Term(name, squared_error, output=f"y[:, {n}]", target="t") for n, name in enumerate(("total", "other"))]
    criterion = hw.Criterion(terms)
    y = torch.tensor([[3.0, 4.0]], requires_grad=True)
    with hw.Ledger(criterion) as ledger:
        criterion({"y": y}, {"t": torch.zeros(1)}).total.backward()
        books = ledger.read()
    assert [term.grad_norm for term in books.values()] == [6.0, 8.0]
    assert math.isclose(books.gram.norm(TOTAL), 10.0)
    model = torch.nn.Linear(2, 1, bias=False)
    (y,) = model.weight
    table = hw.attribution.jacobian({"total": y[0] * 3, "other": y[1] * 4}, model)
    assert [row.norm for row in table.rows] == [3.0, 4.0]
    assert [table.cosine(loss) for loss in table.losses] == pytest.approx([0.6, 0.8])
