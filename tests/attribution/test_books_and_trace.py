"""The trace and the exact table see through the criterion's own nodes, books open or not."""

from __future__ import annotations

import pytest
import torch

import headwise as hw
from headwise.attribution import jacobian, trace
from tests.criterion.samples import NAMES, Net, five_targets, five_terms, images


@pytest.mark.parametrize("policy", ["keep", "drop"])
@pytest.mark.parametrize("books", [False, True])
def test_channels_and_rows_are_those_without_books(books, policy):
    network, targets = Net(), five_targets()
    criterion = hw.Criterion(five_terms(), on_nonfinite=policy)
    ledger = hw.Ledger(criterion) if books else None
    outputs = network(images())
    breakdown = criterion(outputs, targets)
    found = trace(breakdown, network, outputs)
    reads = {"region": (0, 1), "line": (2, 3), "radius": (6,), "sin": (4, 5), "cos": (4, 5)}
    for name in NAMES:
        assert set(found.channels(name, "maps").indices) == set(reads[name])
        assert all(found.reaches(name, parameter) for parameter, _ in network.named_parameters())
    table = jacobian(breakdown, network)
    for name, entry in breakdown.items():
        grads = torch.autograd.grad(entry.weighted, list(network.parameters()), retain_graph=True)
        for (parameter, _), grad in zip(network.named_parameters(), grads, strict=True):
            assert table.norm(name, parameter) == pytest.approx(float(grad.norm()), rel=1e-5)
    if ledger:
        breakdown.total.backward()
        assert ledger.read().names == NAMES
