"""What two gloo ranks balance and which samples they name, in one go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import headwise as hw
from headwise import losses
from headwise.attribution import TermSamples
from tests.balance.test_balance import Two, batches, realized, two_terms
from tests.distributed.ranks import on_ranks


def _balanced(rank: int, rule: Any, steps: int) -> tuple[list[float], dict[str, float]]:
    """Two parts of unlike size of the same batches; the last weights, and the shares over all ranks."""
    network, criterion = DistributedDataParallel(Two()), two_terms(1000.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    part = slice(0, 4) if rank == 0 else slice(4, 16)
    everywhere = []
    with hw.Ledger(criterion, optimizer=optimizer, balance=rule) as ledger:
        for step, (x, targets) in enumerate(batches(steps)):
            optimizer.zero_grad()
            own = {name: each[part] for name, each in targets.items()}
            pooled = hw.pool_denominators(criterion, [own])
            (2 * criterion(network(x[part]), own, pooled).total).backward()
            optimizer.step()
            everywhere += [ledger.read(across_ranks=True)] if step >= steps - 20 else []
        return [float(each) for each in criterion.weights.values()], realized(everywhere)


def _samples(rank: int) -> TermSamples:
    criterion = hw.Criterion([hw.Term("y", losses.squared_error, output="y", target="t")])
    y, t = torch.zeros(4, 2, requires_grad=True), torch.arange(1.0, 5)[:, None].expand(4, 2) + 10 * rank
    with hw.Ledger(criterion, samples=2, values_every=1) as ledger:
        criterion({"y": y}, {"t": t}, ids=[f"{rank}.{place}" for place in range(4)]).total.backward()
        return ledger.samples("y", across_ranks=True)


def _all(rank: int, _world: int) -> Any:
    rules = hw.balance.Shares({"near": 1, "far": 3}), hw.balance.GradNorm()
    return [_balanced(rank, rule, steps) for rule, steps in zip(rules, (100, 20), strict=True)], _samples(rank)


def test_ranks_are_equal_to_the_bit() -> None:
    (first, samples), (second, others) = on_ranks(_all)
    assert [weights for weights, _ in first] == [weights for weights, _ in second]
    assert first[0][1] == pytest.approx({"near": 0.25, "far": 0.75}, abs=0.03)
    assert first[1][0] != [1000.0, 1.0]
    assert samples == others
    assert [each.id for each in samples.by_gradient] == [each.id for each in samples.by_value] == ["1.3", "1.2"]
