"""Two ranks: aggregated steps keep them equal to the bit, staged passes have the gradient of the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import headwise as hw
from headwise import backward
from tests.backward import test_aggregate as aggregated
from tests.backward import test_staged as one_by_one
from tests.distributed.ranks import on_ranks

NUM_STEPS = 50


def train(rank: int, name: str, options: dict[str, Any], num_steps: int = NUM_STEPS) -> list[Tensor]:
    """Weights after some steps with uneven shares of a batch."""
    aggregator, terms = aggregated.aggregators()[name], aggregated.criterion()
    network = DistributedDataParallel(aggregated.Net(), **options)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02)
    torch.manual_seed(rank)  # ranks draw differently, as PCGrad does
    for step in range(num_steps):
        inputs, targets = aggregated.cut(aggregated.batch(step=step), (slice(0, 1), slice(1, 6))[rank])
        optimizer.zero_grad()
        pooled = hw.pool_denominators(terms, [targets])
        backward.aggregate(terms(network(inputs), targets, pooled), network, aggregator)
        optimizer.step()
    return [each.detach().clone() for each in network.parameters()]


def staged_steps(rank: int) -> list[Tensor]:
    network, criterion, (images, targets) = (
        DistributedDataParallel(one_by_one.Net()),
        one_by_one.terms(),
        one_by_one.batch(),
    )
    part = (slice(0, 1), slice(1, 4))[rank]
    inner = network.module
    mine = {name: each[part] for name, each in targets.items()}
    for _ in range(2):
        network.zero_grad()
        pooled = hw.pool_denominators(criterion, [mine])
        backward.staged(criterion, inner.trunk(images[part]), inner.named(), mine, denominators=pooled)
        backward.sum_gradients(network)
    return one_by_one.gradients(network)


def sharded_steps(rank: int) -> list[Tensor]:
    network, criterion, (images, targets) = one_by_one.Net(), one_by_one.terms(), one_by_one.batch()
    mesh = init_device_mesh("cpu", (2,))
    for each in (network.trunk, *network.heads):
        fully_shard(each, mesh=mesh)
    part = (slice(0, 1), slice(1, 4))[rank]
    mine = {name: each[part] for name, each in targets.items()}
    pooled = hw.pool_denominators(criterion, [mine])
    features = network.trunk(images[part])
    backward.staged(criterion, features, network.named(), mine, denominators=pooled, factor=2.0)
    return [each.full_tensor() for each in one_by_one.gradients(network)]  # type: ignore[attr-defined]


def refused_sharded() -> str:
    network, (inputs, targets) = aggregated.Net(), aggregated.batch()
    fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
    try:
        backward.aggregate(aggregated.criterion()(network(inputs), targets), network, lambda matrix: matrix.sum(0))
    except ValueError as error:
        return str(error)
    return "nothing"


def on_rank(rank: int, world: int) -> dict[str, Any]:
    found: dict[str, Any] = {name: train(rank, name, {}) for name in ("UPGrad", "PCGrad", "MGDA", "Mean")}
    found["unused"] = train(rank, "UPGrad", {"find_unused_parameters": True}, 3)
    found["failing"] = failing(rank)
    found["static"] = static_graph()
    found["sums"] = own_sums(rank)
    found["staged"] = staged_steps(rank)
    found["sharded"], found["refused"] = sharded_steps(rank), refused_sharded()
    return found


def failing(rank: int) -> str:
    network, (inputs, targets) = aggregated.Net(), aggregated.batch()

    def fail(matrix: Tensor) -> Tensor:
        raise FloatingPointError("no solution")

    try:
        backward.aggregate(aggregated.criterion()(network(inputs), targets), network, fail)
    except (FloatingPointError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def static_graph() -> str:
    network, (inputs, targets) = DistributedDataParallel(aggregated.Net(), static_graph=True), aggregated.batch()
    try:
        backward.aggregate(aggregated.criterion()(network(inputs), targets), network, lambda matrix: matrix.sum(0))
    except ValueError as error:
        return str(error)
    return "nothing"


def own_sums(rank: int) -> list[Tensor | None]:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3).double()), nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.full((2,), rank + 1.0)
    if rank == 1:
        parameters[1].grad = torch.ones(3).double()
    backward.sum_gradients(parameters)
    return [each.grad for each in parameters]


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    pytest.importorskip("torchjd.aggregation")
    return on_ranks(on_rank)


@pytest.mark.parametrize("name", ["UPGrad", "PCGrad", "MGDA", "Mean", "unused"])
def test_ranks_stay_equal_to_the_bit(results, name):
    start = list(aggregated.Net().parameters())
    for one, other, before in zip(results[0][name], results[1][name], start, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, before)


@pytest.mark.parametrize("name", ["UPGrad", "MGDA", "Mean"])
def test_two_ranks_train_as_one_process_with_the_whole_batch(results, name):
    network, terms, aggregator = aggregated.Net(), aggregated.criterion(), aggregated.aggregators()[name]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02)
    for step in range(NUM_STEPS):
        inputs, targets = aggregated.batch(step=step)
        optimizer.zero_grad()
        backward.aggregate(terms(network(inputs), targets), network, aggregator)
        optimizer.step()
    for found, wanted in zip(results[0][name], network.parameters(), strict=True):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-5)


def test_an_error_on_the_first_rank_ends_all(results):
    assert results[0]["failing"] == "FloatingPointError: no solution"
    assert "failed on the first rank" in results[1]["failing"]


def test_a_static_graph_is_refused(results):
    assert all("static_graph=False" in result["static"] for result in results)


def test_gradients_are_added_up_over_ranks(results):
    for result in results:
        first, second, third = result["sums"]
        assert first.tolist() == [3, 3]
        assert second.tolist() == [1, 1, 1]
        assert third is None


def test_staged_ranks_have_the_gradient_of_the_whole_batch(results):
    images, targets = one_by_one.batch()
    wanted, _ = one_by_one.plain(one_by_one.Net(), one_by_one.terms(), images, targets)
    one_by_one.assert_equal(results[0]["staged"], wanted)
    assert all(torch.equal(a, b) for a, b in zip(results[0]["staged"], results[1]["staged"], strict=True))


def test_staged_passes_of_sharded_parts(results):
    images, targets = one_by_one.batch()
    wanted, _ = one_by_one.plain(one_by_one.Net(), one_by_one.terms(), images, targets)
    one_by_one.assert_equal(results[0]["sharded"], wanted)


def test_aggregation_of_sharded_parameters_is_refused(results):
    assert all("sharded (FSDP2)" in result["refused"] for result in results)
