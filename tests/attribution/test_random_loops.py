"""The books over random loops: right to 1e-6, or said to be unbooked; and training as it was, to the bit."""

from __future__ import annotations

import gc
import os
import tracemalloc

import pytest
import torch

import headwise as hw
from headwise import losses
from headwise.attribution.ledger import record
from tests.attribution.loops import NAMES, Found, Program, draw, expected, run

PROGRAMS = int(os.environ.get("HEADWISE_LOOPS", "1500"))
"""How many loops are tried; 100,000 were, once."""


def near(found: float, wanted: float, what: str, program: Program, size: float = 0.0) -> None:
    assert abs(found - wanted) <= 1e-6 * max(abs(wanted), size, 1e-9), f"{what}: {found}, expected {wanted}; {program}"


def check(program: Program) -> None:
    with_books, without = run(program, books=True), run(program, books=False)
    for one, other in zip(with_books.gradients, without.gradients, strict=True):
        assert torch.equal(one, other), f"gradients with and without books differ: {program}"
    check_books(program, with_books)


def check_books(program: Program, found: Found) -> None:
    books, wanted = found.books, expected(program, found)
    for name in NAMES:
        near(books[name].value, wanted[name]["value"], f"value of {name}", program)
        near(books[name].weight, wanted[name]["weight"], f"weight of {name}", program)
        near(books[name].grad_norm, wanted[name]["norm"], f"gradient norm of {name}", program, 1e-3)
    size = sum(abs(books[name].weighted) for name in NAMES)
    near(books.total, found.number / wanted["common"], "total", program, size)
    linear = program.form != "log"
    if program.penalty == "output":
        assert not books.balanced, f"a penalty at an output was not seen: {program}"
        assert books.unbooked.norms["one"] > 0
        assert books.unbooked.norms["two"] <= 1e-9 * max(1.0, books.unbooked.norms["one"])
    elif program.penalty == "parameters":
        assert not books.balanced, f"a penalty on parameters was not seen: {program}"
        assert books.unbooked.grad_norm == 0.0
    elif linear:
        assert books.balanced, f"everything is booked, and yet {books.unbooked}: {program}"


def check_many(num: int) -> None:
    for seed in range(num):
        check(draw(seed))


def test_random_loops():
    check_many(PROGRAMS)


def test_one_seeded_error_is_found(monkeypatch):
    """A factor that is taken for its square, as the first books took it."""
    factor = record.CallRecord._factor
    monkeypatch.setattr(record.CallRecord, "_factor", lambda *given: factor(*given).square())
    with pytest.raises(AssertionError, match="expected"):
        check_many(40)


def test_memory_of_many_steps_is_flat():
    criterion = hw.Criterion([hw.Term("a", losses.squared_error, output="y", target="t")])
    leaf = torch.ones(3, requires_grad=True)
    sizes = []
    with hw.Ledger(criterion, capacity=16) as ledger:
        tracemalloc.start()
        for step in range(3000):
            criterion({"y": leaf * step}, {"t": torch.zeros(3)}).total.backward()
            criterion.advance()
            if step in (1000, 2999):
                ledger.read()  # as many calls wait then: none
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < 20_000
