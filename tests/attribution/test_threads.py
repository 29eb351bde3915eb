"""Trainings in several threads of one process: the books of each are its own."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import headwise as hw
from headwise import losses
from headwise.attribution import wrap
from headwise.attribution.ledger.books import Books

WIDE = torch.float64
SCALES = (1.0, 2.0, 3.0)
STEPS = 40


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def criterion() -> hw.Criterion:
    terms = [hw.Term(name, losses.squared_error, output=name, target="t") for name in ("depth", "normal")]
    return hw.Criterion(terms)


def step(of: hw.Criterion, scale: float) -> None:
    leaf = torch.full((4, 3), scale, dtype=WIDE, requires_grad=True)
    targets: dict[str, Tensor] = {"t": torch.zeros(4, 3, dtype=WIDE)}
    of({"depth": 1 * leaf, "normal": leaf.tanh()}, targets).total.backward()


def in_threads(train: Callable[[float], object]) -> None:
    threads = [threading.Thread(target=train, args=(scale,)) for scale in SCALES]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def numbers(books: Books) -> tuple[float, float, bool]:
    return round(books["depth"].value, 6), round(books["depth"].grad_norm, 6), books.balanced


def wanted(scale: float) -> tuple[float, float, bool]:
    return scale**2, round(2 * scale / 12**0.5, 6), True


def test_a_criterion_a_thread():
    """One row in six had another thread's numbers, or a norm of 0, and said that it balanced."""
    found: dict[float, Counter[tuple[float, float, bool]]] = {scale: Counter() for scale in SCALES}

    def train(scale: float) -> None:
        own = criterion()
        with hw.Ledger(own) as ledger:
            for _ in range(STEPS):
                step(own, scale)
                found[scale][numbers(ledger.read())] += 1

    in_threads(train)
    assert found == {scale: Counter({wanted(scale): STEPS}) for scale in SCALES}


@pytest.mark.parametrize("trains", [True, False])
def test_looks_beside_the_passes_of_other_threads(trains):
    """A gradient norm that a thread logs was booked as its training while another thread's `backward` was under way."""
    found: dict[float, Counter[tuple[float, float, bool]]] = {scale: Counter() for scale in SCALES}

    def train(scale: float) -> None:
        own = criterion()
        with hw.Ledger(own) as ledger:
            for _ in range(STEPS):
                leaf = torch.full((4, 3), scale, dtype=WIDE, requires_grad=True)
                breakdown = own({"depth": 1 * leaf, "normal": leaf.tanh()}, {"t": torch.zeros(4, 3, dtype=WIDE)})
                torch.autograd.grad(breakdown.total, leaf, retain_graph=True)
                if trains or scale == SCALES[0]:
                    breakdown.total.backward()
                found[scale][numbers(ledger.read())] += 1

    in_threads(train)
    assert found == {scale: Counter({wanted(scale): STEPS}) for scale in SCALES}


def test_one_criterion_in_all_threads():
    shared = criterion()

    def train(scale: float) -> None:
        for _ in range(STEPS):
            step(shared, scale)

    with hw.Ledger(shared) as ledger:
        in_threads(train)
        found = Counter(map(numbers, ledger.history()))
    assert found == Counter({wanted(scale): STEPS for scale in SCALES})


def test_a_wrapped_criterion_in_all_threads():
    """Of a hundred rows seven did not balance: what one thread heard while another looked was left out."""

    def foreign(outputs: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {name: (output - t).square().mean() for name, output in outputs.items()}

    shared = wrap(foreign)

    def train(scale: float) -> None:
        for _ in range(STEPS):
            leaf = torch.full((4, 3), scale, dtype=WIDE, requires_grad=True)
            sum(shared({"depth": 1 * leaf, "normal": leaf.tanh()}, torch.zeros(4, 3, dtype=WIDE)).values()).backward()

    in_threads(train)
    found = Counter(map(numbers, shared.ledger.history()))
    shared.ledger.close()
    assert found == Counter({wanted(scale): STEPS for scale in SCALES})
