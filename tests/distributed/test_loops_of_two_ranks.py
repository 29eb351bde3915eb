"""Books of loops under DDP on two gloo ranks: `no_sync`, uneven micro-batches, a penalty that one rank alone has."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import headwise as hw
from tests.attribution.loops import NAMES, Found, Heads, Program, Session, batch_of, expected, terms
from tests.distributed.ranks import on_ranks

WEIGHTS = {"a": 1.0, "b": 0.5, "c": 2.0}


def loop(rank: int, world: int) -> dict[str, Any]:
    network = DistributedDataParallel(Heads(7))
    criterion = hw.Criterion(terms(WEIGHTS))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    ledger = hw.Ledger(criterion, optimizer=optimizer)
    sizes = (2, 3, 4)
    told: dict[str, Any] = {"near": [], "balanced": [], "names": list(NAMES)}
    for step in range(3):
        found, program = Found(), Program(10 * step + rank, sizes)
        for number in range(len(sizes)):
            x, targets = batch_of(program, number)
            last = number == len(sizes) - 1
            with contextlib.nullcontext() if last else network.no_sync():
                outputs = network(x)
                total = criterion(outputs, targets).total / len(sizes)
                if step == 1 and last and rank == 1:
                    total = total + 0.7 * outputs["one"].square().sum()
                total.backward()
            found.factors.append({name: WEIGHTS[name] / 3 for name in NAMES})
            found.totals.append(1 / 3)
            found.batches.append(({name: each.detach() for name, each in outputs.items()}, targets))
        optimizer.step()
        optimizer.zero_grad()
        books, wanted = ledger.read(), expected(program, Session(0, [], WEIGHTS), found)
        pairs = [
            (getattr(books[name], what), wanted[name][key])
            for name in NAMES
            for what, key in (("value", "value"), ("weight", "weight"), ("grad_norm", "norm"))
        ]
        told["near"].append(max(abs(one - other) / max(abs(other), 1e-9) for one, other in pairs))
        told["balanced"].append(books.balanced)
    pooled = ledger.read(across_ranks=True)
    told["pooled"] = (pooled.scope, pooled.balanced, {name: pooled[name].value for name in NAMES})
    told["own"] = {name: books[name].value for name in NAMES}
    ledger.close()
    return told


@pytest.mark.slow
def test_no_sync_uneven_micro_batches_and_a_penalty_on_one_rank():
    ranks = on_ranks(loop)
    for each in ranks:
        assert max(each["near"]) < 1e-6, each["near"]
    assert ranks[0]["balanced"] == [True, True, True]
    assert ranks[1]["balanced"] == [True, False, True]
    scope, balanced, values = ranks[0]["pooled"]
    assert (scope, balanced) == ("global", True)
    assert ranks[1]["pooled"] == ranks[0]["pooled"]
    for name in NAMES:
        assert values[name] == pytest.approx((ranks[0]["own"][name] + ranks[1]["own"][name]) / 2, rel=1e-6)
