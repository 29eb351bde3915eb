"""A ledger that nobody closed ends with its criterion: nothing that it listens to keeps it, or is left changed."""

import gc
import weakref

import pytest
import torch

import headwise as hw
from headwise import losses


def a_criterion():
    return hw.Criterion([hw.Term("depth", losses.squared_error, output="map", target="map")])


def one_step(criterion, network, optimizer=None):
    breakdown = criterion({"map": network(torch.ones(2, 3))}, {"map": torch.zeros(2, 4)})
    breakdown.total.backward()
    if optimizer is not None:
        optimizer.step()


class Trunk(torch.nn.Module):
    """A network with a junction."""

    def __init__(self):
        super().__init__()
        self.trunk, self.head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 4)
        self.junction = hw.Junction("trunk", ["depth"])

    def forward(self, batch):
        return self.head(*self.junction(self.trunk(batch)))


@pytest.mark.parametrize("reads", [False, True])
def test_a_dropped_ledger_is_collected_with_its_criterion(reads):
    original, kept = torch.autograd.backward, []
    network = Trunk()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(3):
        criterion = a_criterion()
        ledger = hw.Ledger(criterion, network, optimizer=optimizer, scaler=scaler, samples=2)
        one_step(criterion, network, optimizer)
        if reads:
            ledger.read()
        kept += [weakref.ref(criterion), weakref.ref(ledger)]
        del criterion, ledger
        gc.collect()
    assert [each() for each in kept] == [None] * 6
    assert torch.autograd.backward is original
    assert network.junction.slot is None
    assert "update" not in vars(scaler)
    assert not optimizer._optimizer_step_post_hooks


def test_a_ledger_that_is_not_held_books_as_long_as_its_criterion_lives():
    network = torch.nn.Linear(3, 4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    criterion = a_criterion()
    hw.Ledger(criterion, optimizer=optimizer)
    gc.collect()
    for _ in range(2):
        one_step(criterion, network, optimizer)
    assert criterion.recorder is not None
    assert len(criterion.recorder.history()) == 2


def test_what_a_closed_ledger_booked_stays_readable_and_closing_twice_does_nothing():
    criterion, network = a_criterion(), torch.nn.Linear(3, 4)
    ledger = hw.Ledger(criterion)
    one_step(criterion, network)
    ledger.close()
    ledger.close()
    assert ledger.read().balanced
