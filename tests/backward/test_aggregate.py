"""Aggregated gradients against TorchJD by hand, on one process; two ranks are in test_on_ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import headwise as hw
from headwise import backward
from tests.criterion.samples import squared


class Net(nn.Module):
    """A trunk that three terms share, a head that two share, and a head of the third's own."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk, self.both, self.own = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        features = torch.tanh(self.trunk(inputs))
        return {"both": self.both(features), "own": self.own(features)}


def criterion(**weights: float) -> hw.Criterion:
    rows = [("a", "both", "one", None), ("b", "both", "two", None), ("c", "own", "three", "valid")]
    terms = [
        hw.Term(name, squared, output=output, target=target, mask=mask, weight=weights.get(name, 1.0))
        for name, output, target, mask in rows
    ]
    return hw.Criterion(terms)


def batch(num: int = 6, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(step)
    targets = {name: torch.randn(num, 2, generator=draw) for name in ("one", "two")}
    valid = torch.rand(num, 3, generator=draw) < 0.5
    return torch.randn(num, 4, generator=draw), targets | {
        "two": -targets["one"] + 0.1 * targets["two"],  # terms a and b pull against each other
        "three": torch.randn(num, 3, generator=draw),
        "valid": valid,
    }


def cut(data: tuple[Tensor, dict[str, Tensor]], part: slice) -> tuple[Tensor, dict[str, Tensor]]:
    return data[0][part], {name: each[part] for name, each in data[1].items()}


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: each.grad for name, each in network.named_parameters() if each.grad is not None}


def by_hand(aggregator: Any) -> dict[str, Tensor]:
    network, (inputs, targets) = Net(), batch()
    breakdown = criterion(a=0.5)(network(inputs), targets)
    shared = [*network.trunk.parameters(), *network.both.parameters()]
    rows = [
        torch.cat(
            [
                torch.zeros(each.numel()) if grad is None else grad.flatten()
                for grad, each in zip(
                    torch.autograd.grad(entry.weighted, shared, retain_graph=True, allow_unused=True),
                    shared,
                    strict=True,
                )
            ]
        )
        for entry in breakdown.values()
    ]
    answer = aggregator(torch.stack(rows)).split([each.numel() for each in shared])
    breakdown.total.backward()
    found = gradients(network)
    names = [name for name in found if not name.startswith("own")]
    return found | {name: each.view_as(found[name]) for name, each in zip(names, answer, strict=True)}


def aggregators() -> dict[str, Any]:
    torchjd = pytest.importorskip("torchjd.aggregation")
    return {name: getattr(torchjd, name)() for name in ("UPGrad", "MGDA", "Mean", "PCGrad", "Sum")}


@pytest.mark.parametrize("name", ["UPGrad", "MGDA", "Mean", "PCGrad", "Sum"])
def test_shared_parameters_have_the_aggregate_and_others_their_gradient(name):
    aggregator = aggregators()[name]
    torch.manual_seed(1)
    wanted = by_hand(aggregator)
    network, (inputs, targets) = Net(), batch()
    torch.manual_seed(1)
    backward.aggregate(criterion(a=0.5)(network(inputs), targets), network, aggregator)
    found = gradients(network)
    assert set(found) == set(wanted)
    for key, each in wanted.items():
        torch.testing.assert_close(found[key], each, rtol=1e-6, atol=1e-8)


def test_sum_is_the_plain_backward_pass_and_mean_its_direction():
    network, (inputs, targets) = Net(), batch()
    criterion()(network(inputs), targets).total.backward()
    plain = gradients(network)
    for aggregator, factor in ((lambda matrix: matrix.sum(0), 1.0), (lambda matrix: matrix.mean(0), 3.0)):
        other = Net()
        backward.aggregate(criterion()(other(inputs), targets), other, aggregator)
        for key, each in gradients(other).items():
            scale = 1.0 if key.startswith("own") else factor
            torch.testing.assert_close(each * scale, plain[key], rtol=1e-5, atol=1e-7)


def test_micro_batches_make_one_jacobian_and_gradients_are_added():
    data, conflict = batch(), lambda matrix: matrix.amax(0)  # not linear, so that parts would show
    network = Net()
    backward.aggregate(criterion()(network(data[0]), data[1]), network, conflict)
    once = gradients(network)
    terms, other = criterion(), Net()
    parts = [cut(data, part) for part in (slice(0, 1), slice(1, 6))]
    pooled = hw.pool_denominators(terms, [targets for _, targets in parts])
    for _ in range(2):
        steps = (terms(other(inputs), targets, pooled) for inputs, targets in parts)
        backward.aggregate(steps, list(other.parameters()), conflict)
    for key, each in gradients(other).items():
        torch.testing.assert_close(each, 2 * once[key], rtol=1e-5, atol=1e-7)


def test_empty_rows_are_kept_or_dropped():
    network, (inputs, targets) = Net(), batch()
    seen = []

    def look(matrix: Tensor) -> Tensor:
        seen.append(len(matrix))
        return matrix.sum(0)

    for drop in (False, True):
        breakdown = criterion(b=0.0)(network(inputs), targets)
        backward.aggregate(breakdown, network, look, drop_empty=drop)
    assert seen == [3, 2]
    nothing = criterion(a=0.0, b=0.0, c=0.0)(network(inputs), targets)
    backward.aggregate(nothing, network, look, drop_empty=True)
    assert len(seen) == 2  # nobody is asked about nothing


def test_books_of_an_open_ledger_are_left_alone():
    network, (inputs, targets) = Net(), batch()
    terms = criterion()
    with hw.Ledger(terms) as ledger:
        terms(network(inputs), targets).total.backward()
        before = ledger.read()["a"].grad_norm
        backward.aggregate(terms(network(inputs), targets), network, lambda matrix: matrix.sum(0))
        assert ledger.read()["a"].grad_norm == before


def test_misuse_is_told():
    network, (inputs, targets) = Net(), batch()
    breakdown = criterion()(network(inputs), targets)
    with pytest.raises(ValueError, match=r"one row of 37 numbers; found \(3,\)"):
        backward.aggregate(breakdown, network, lambda matrix: matrix.sum(1))
    with pytest.raises(ValueError, match="no breakdown"):
        backward.aggregate([], network, lambda matrix: matrix.sum(0))
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        backward.aggregate(breakdown, [torch.zeros(2)], lambda matrix: matrix.sum(0))
    with pytest.raises(ValueError, match=r"a function of the Jacobian, .* found NoneType"):
        backward.aggregate(breakdown, network, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"found a Tensor. Give what the criterion returned"):
        backward.aggregate(breakdown.total, network, lambda matrix: matrix.sum(0))
    with pytest.raises(ValueError, match=r"found a dict. Give what the criterion returned"):
        backward.aggregate({"a": breakdown.total}, network, lambda matrix: matrix.sum(0))  # type: ignore[dict-item]
    named: Any = dict(network.named_parameters())
    with pytest.raises(ValueError, match="found str among them"):
        backward.aggregate(breakdown, named, lambda matrix: matrix.sum(0))
    with pytest.raises(ValueError, match="no term reaches any of the parameters"):
        backward.aggregate(breakdown, torch.nn.Linear(2, 2), lambda matrix: matrix.sum(0))
    with torch.no_grad():
        blind = criterion()(network(inputs), targets)
    with pytest.raises(ValueError, match="no term reaches any of the parameters"):
        backward.aggregate(blind, network, lambda matrix: matrix.sum(0))


def test_a_term_without_a_graph_is_a_row_of_zeros():
    network, (inputs, targets) = Net(), batch()

    def breakdown() -> hw.Breakdown:
        outputs = network(inputs)
        found: hw.Breakdown = criterion()(outputs | {"own": outputs["own"].detach()}, targets)
        return found

    def look(matrix: Tensor) -> Tensor:
        norms = matrix.norm(dim=1)
        assert len(norms) == 3
        assert norms[2] == 0
        return matrix.sum(0)

    backward.aggregate(breakdown(), network, look)
    found = gradients(network)
    network.zero_grad()
    breakdown().total.backward()
    torch.testing.assert_close(found, gradients(network))


def test_a_reentrant_checkpoint_is_refused():
    network, (inputs, targets) = Net(), batch()
    outputs = network(inputs)
    outputs["own"] = checkpoint(torch.tanh, outputs["own"], use_reentrant=True)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        backward.aggregate(criterion()(outputs, targets), network, lambda matrix: matrix.sum(0))
