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
from tests.attribution.loops import NAMES, SMOOTH, Found, Program, Session, draw, expected, run

STEPS = 8
"""Steps of a loop, each a program of its own."""

PARTS = 8
"""So that processes can share them."""

PROGRAMS = int(os.environ.get("HEADWISE_LOOPS", "400"))
"""How many programs are tried: 10,000 by `make loops`."""

FIRST = int(os.environ.get("HEADWISE_LOOPS_FROM", "0"))
"""The first of them, so that several machines can share a long run."""


def near(found: float, wanted: float, what: str, program: Program, size: float = 0.0) -> None:
    assert abs(found - wanted) <= 1e-6 * max(abs(wanted), size, 1e-9), f"{what}: {found}, expected {wanted}; {program}"


def check(session: Session, *, twice: bool = True) -> None:
    with_books = run(session, books=True)
    for program, found in zip(session.programs, with_books, strict=True):
        check_books(program, session, found)
    if not twice:
        return
    for program, one, other in zip(session.programs, with_books, run(session, books=False), strict=True):
        for left, right in zip(one.gradients, other.gradients, strict=True):
            assert torch.equal(left, right), f"gradients with and without books differ: {program}; {session.seed}"


def check_books(program: Program, session: Session, found: Found) -> None:
    books, wanted = found.books, expected(program, session, found)
    names = NAMES if session.quiet is None else (*NAMES, "quiet")
    for name in names:
        near(books[name].value, wanted[name]["value"], f"value of {name}", program)
        near(books[name].weight, wanted[name]["weight"], f"weight of {name}", program)
        near(books[name].grad_norm, wanted[name]["norm"], f"gradient norm of {name}", program, 1e-3)
    size = sum(abs(each.weighted) for each in books.values())
    for name in names:
        near(books[name].share, books[name].weighted / size if size else 0.0, f"share of {name}", program, 1.0)
    whole = found.number / wanted["common"]
    if session.quiet is not None:
        whole += wanted["quiet"]["value"] * wanted["quiet"]["weight"]
    if program.form in SMOOTH and books.unbooked.is_nothing:
        # No sum of the terms; where it happens to differ by no more than rounding does, the total leaves that out.
        whole -= books.unbooked.value
    near(books.total, whole, "total", program, size)
    strangers = program.penalty == "output" or (program.second and not session.second_booked)
    if strangers or program.penalty == "parameters":
        assert not books.balanced, f"what is no term was not seen: {program}"
    elif program.form not in SMOOTH:
        assert books.balanced, f"everything is booked, and yet {books.unbooked}: {program}"
    norms = books.unbooked.norms
    assert (norms["one"] > 1e-9 * books.unbooked.sent) == bool(strangers), f"unbooked at an output {norms}: {program}"
    assert norms["two"] <= 1e-9 * max(1.0, books.unbooked.sent), f"unbooked at an output that is in order: {program}"


def check_many(num: int, part: int = 0, parts: int = 1) -> None:
    for number in range(FIRST // STEPS + part, -(-(FIRST + num) // STEPS), parts):
        check(draw(number, STEPS), twice=number // parts % 4 == 0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo looks at it
@pytest.mark.parametrize("part", range(PARTS))
def test_random_loops(part):
    check_many(PROGRAMS, part, PARTS)


def test_one_seeded_error_is_found(monkeypatch):
    """A factor that is taken for its square, as the first books took it."""
    factor = record.CallRecord.factor
    monkeypatch.setattr(record.CallRecord, "factor", lambda *given: factor(*given).square())
    with pytest.raises(AssertionError, match="expected"):
        check_many(80)


def test_a_learned_weight_of_0_lets_the_bare_value_train():
    """Found by the random loops: the gradient of `value` was 0 where the weight was a tensor that held 0."""
    leaf = torch.ones(3, dtype=torch.float64, requires_grad=True)
    zero = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    criterion = hw.Criterion([hw.Term("a", losses.squared_error, output="y", target="t", weight=zero)])
    with hw.Ledger(criterion) as ledger:
        criterion({"y": leaf}, {"t": torch.zeros(3, dtype=torch.float64)})["a"].value.backward()
        assert leaf.grad is not None
        assert ledger.read()["a"].grad_norm == pytest.approx(float(leaf.grad.norm()))
    assert torch.allclose(leaf.grad, torch.full_like(leaf, 2 / 3))


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
