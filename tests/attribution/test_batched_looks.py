"""Several gradients in one pass, by torch's own batching: as without books, and later books are untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import headwise as hw
from headwise import losses


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        self.junction = hw.Junction("features", ("one", "two"))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = hw.book(self.trunk(x), name="norm", loss=lambda each: each.square().mean(), weight=0.1)
        one, two = self.junction(features)
        return {"one": self.one(one), "two": self.two(two)}


TERMS = [
    hw.Term("one", losses.squared_error, output="one", target="t"),
    hw.Term("two", losses.squared_error, output="two", target="t"),
    hw.Term("more", losses.smooth_l1, output="one", target="t"),
]


def one_by_one(numbers: Tensor, weight: Tensor) -> Tensor:
    return torch.stack([torch.autograd.grad(each, weight, retain_graph=True)[0] for each in numbers])


def batched(numbers: Tensor, weight: Tensor) -> Tensor:
    rows = torch.eye(len(numbers))
    return torch.autograd.grad(numbers, weight, rows, retain_graph=True, is_grads_batched=True)[0]


def mapped(numbers: Tensor, weight: Tensor) -> Tensor:
    found: Tensor = torch.vmap(lambda row: torch.autograd.grad(numbers, weight, row, retain_graph=True)[0])(
        torch.eye(len(numbers))
    )
    return found


def numbers_of(network: Network, criterion: hw.Criterion) -> tuple[Any, Tensor]:
    breakdown = criterion(network(torch.ones(5, 3)), {"t": torch.zeros(5, 2)})
    return breakdown, torch.stack([breakdown.total, 2 * breakdown.total])


def booked(look: Callable[[Tensor, Tensor], Tensor] | None, samples: int, policy: Any) -> tuple[Any, Tensor | None]:
    network, criterion = Network(), hw.Criterion(TERMS, on_nonfinite=policy)
    with hw.Ledger(criterion, network, samples=samples) as ledger:
        breakdown, numbers = numbers_of(network, criterion)
        found = None if look is None else look(numbers, network.trunk.weight)
        breakdown.total.backward()
        return ledger.read(), found


@pytest.mark.parametrize("policy", ["keep", "drop", "raise"])
@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("look", [batched, mapped])
def test_a_batched_look_is_that_without_books_and_leaves_no_trace(look, samples, policy):
    network = Network()
    wanted = one_by_one(numbers_of(network, hw.Criterion(TERMS))[1], network.trunk.weight)
    books, found = booked(look, samples, policy)
    torch.testing.assert_close(found, wanted)
    plain, _ = booked(None, samples, policy)
    assert books.balanced == plain.balanced
    assert {name: each.grad_norm for name, each in books.items()} == {n: e.grad_norm for n, e in plain.items()}
    assert books.features["features"].grad_norm == plain.features["features"].grad_norm


def test_a_jacobian_of_torch_beside_open_books():
    criterion = hw.Criterion(TERMS[:1])
    with hw.Ledger(criterion):
        found = torch.autograd.functional.jacobian(
            lambda y: criterion({"one": y}, {"t": torch.zeros(5, 2)}).total, torch.ones(5, 2), vectorize=True
        )
    torch.testing.assert_close(found, torch.full((5, 2), 0.2))
