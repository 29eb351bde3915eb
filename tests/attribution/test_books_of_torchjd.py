"""The books of steps that TorchJD made: aggregated Jacobians, and every scalarizer, beside `autograd.grad`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import headwise as hw
from headwise import backward
from tests.backward.test_aggregate import Net, batch, criterion

WIDE = torch.float64
aggregation = pytest.importorskip("torchjd.aggregation")
scalarization = pytest.importorskip("torchjd.scalarization")
NAMES = ("a", "b", "c")


def near(found, wanted, what, tolerance=1e-6):
    assert found == pytest.approx(wanted, rel=tolerance, abs=1e-9), what


def rows_of(network, terms, inputs, targets):
    """The Jacobian of the shared parameters, by hand."""
    shared = [*network.trunk.parameters(), *network.both.parameters()]
    breakdown = terms(network(inputs), targets)
    rows = []
    for entry in breakdown.values():
        found = torch.autograd.grad(entry.weighted, shared, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for g, p in zip(found, shared, strict=True)]
        rows.append(torch.cat([each.flatten() for each in parts]))
    return torch.stack(rows), shared


def wide_batch():
    inputs, targets = batch()
    return inputs.double(), {key: each.double() if each.is_floating_point() else each for key, each in targets.items()}


MAKERS = {
    "UPGrad": lambda: aggregation.UPGrad(),
    "MGDA": lambda: aggregation.MGDA(),
    "Mean": lambda: aggregation.Mean(),
    "PCGrad": lambda: aggregation.PCGrad(),
    "AlignedMTL": lambda: aggregation.AlignedMTL(),
    "IMTLG": lambda: aggregation.IMTLG(),
    "DualProj": lambda: aggregation.DualProj(),
    "ConFIG": lambda: aggregation.ConFIG(),
    "Krum": lambda: aggregation.Krum(0, 1),
    "a function": lambda: lambda matrix: matrix.sum(0),
}


@pytest.mark.parametrize("name", MAKERS)
def test_an_aggregated_step_has_norms_cosines_and_weights(name):
    network, (inputs, targets), terms = Net().double(), wide_batch(), criterion(a=0.5)
    rows, shared = rows_of(network, terms, inputs, targets)
    with hw.Ledger(terms) as ledger:
        torch.manual_seed(5)
        backward.aggregate(terms(network(inputs), targets), network, MAKERS[name]())
        books = ledger.read()
    answer = torch.cat([each.grad.flatten() for each in shared])
    found = books.aggregated
    assert found is not None
    assert found.terms == NAMES
    assert found.where.level == "parameter"
    for number, term in enumerate(NAMES):
        near(found.norm(term), float(rows[number].norm()), f"norm of {term}")
        cosine = float(nn.functional.cosine_similarity(rows[number], answer, 0))
        near(found.cosine(term, "total"), cosine, f"cosine of {term} with what arrived")
    near(found.cosine("a", "b"), float(nn.functional.cosine_similarity(rows[0], rows[1], 0)), "cosine of a and b")
    near(found.norm("total"), float(answer.norm()), "norm of what arrived")
    assert torch.allclose(found.weights @ rows, answer, rtol=1e-6, atol=1e-9)
    near(books["a"].weight, 0.5, "weight as declared")
    assert books["a"].grad_norm > 0


def test_what_is_no_combination_of_rows_has_no_weights():
    network, (inputs, targets), terms = Net().double(), wide_batch(), criterion()
    with hw.Ledger(terms) as ledger:
        backward.aggregate(terms(network(inputs), targets), network, lambda matrix: matrix.amax(0))
        found = ledger.read().aggregated
    assert found is not None
    assert bool(found.weights.isnan().all())
    assert found.norm("total") > 0


def test_plain_steps_beside_aggregated_ones():
    network, (inputs, targets), terms = Net().double(), wide_batch(), criterion()
    with hw.Ledger(terms) as ledger:
        for aggregated in (False, True, False):
            breakdown = terms(network(inputs), targets)
            if aggregated:
                backward.aggregate(breakdown, network, aggregation.UPGrad(), drop_empty=True)
            else:
                breakdown.total.backward()
            terms.advance()
        history = ledger.history()
    assert [books.step for books in history] == [0, 1, 2]
    assert [books.aggregated is not None for books in history] == [False, True, False]


class Booked(nn.Module):
    """A network with a loss inside, at a hidden feature."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net().double()

    def forward(self, inputs):
        features = torch.tanh(self.net.trunk(inputs))
        features = hw.book(features, name="quiet", loss=lambda each: each.square().mean(), weight=0.2)
        return {"both": self.net.both(features), "own": self.net.own(features)}


def test_a_loss_inside_the_network_is_a_row():
    network, (inputs, targets), terms = Booked(), wide_batch(), criterion()
    features = torch.tanh(network.net.trunk(inputs))
    trunk = list(network.net.trunk.parameters())
    wanted = torch.autograd.grad(0.2 * features.square().mean(), trunk)
    plain = Net().double()
    backward.aggregate(terms(plain(inputs), targets), plain, lambda matrix: matrix.sum(0))
    with hw.Ledger(terms) as ledger:
        backward.aggregate(terms(network(inputs), targets), network, lambda matrix: matrix.sum(0))
        books = ledger.read()
    for one, other, more in zip(trunk, plain.trunk.parameters(), wanted, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad + more, rtol=1e-9)
    assert books.aggregated is not None
    assert books.aggregated.terms == (*NAMES, "quiet")
    near(books.aggregated.norm("quiet"), float(torch.cat([each.flatten() for each in wanted]).norm()), "norm")
    features = features.detach()
    near(books["quiet"].value, float(features.square().mean()), "value")
    near(books["quiet"].weight, 0.2, "weight")
    near(books["quiet"].grad_norm, 0.4 * float(features.norm()) / features.numel(), "norm at the feature")


def scalarizers():
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=WIDE)
    return {
        "Sum": scalarization.Sum(),
        "Mean": scalarization.Mean(),
        "Constant": scalarization.Constant(weights),
        "Random": scalarization.Random(),
        "DWA": scalarization.DWA(),
        "GeometricMean": scalarization.GeometricMean(),
        "COSMOS": scalarization.COSMOS(0.5, weights),
        "PBI": scalarization.PBI(2.0, weights),
        "STCH": scalarization.STCH(0.5, weights),
        "UW": scalarization.UW(3).double(),
        "IMTLL": scalarization.IMTLL(3).double(),
        "FAMO": scalarization.FAMO(3).double(),
    }


@pytest.mark.parametrize("name", sorted(scalarization.__all__))
def test_every_scalarizer_is_booked_with_the_weights_that_it_used(name):
    if name == "Scalarizer":
        return  # the base
    scalarizer = scalarizers()[name]
    network, (inputs, targets), terms = Net().double(), wide_batch(), criterion()
    with hw.Ledger(terms) as ledger:
        outputs = network(inputs)
        breakdown = terms(outputs, targets)
        values = torch.stack([breakdown[each].value for each in NAMES])
        torch.manual_seed(2)
        number = scalarizer(values)
        number.backward()
        books = ledger.read()
    leaves = values.detach().requires_grad_()
    torch.manual_seed(2)
    (wanted,) = torch.autograd.grad(scalarizer(leaves), leaves)
    again = terms({key: each.detach().requires_grad_() for key, each in outputs.items()}, targets)
    sizes = []
    for each in NAMES:
        leaf = {key: value.detach().requires_grad_() for key, value in outputs.items()}
        terms(leaf, targets)[each].value.backward()
        sizes.append(
            float(torch.stack([v.grad.square().sum() for v in leaf.values() if v.grad is not None]).sum().sqrt())
        )
    for each, weight, size in zip(NAMES, wanted.tolist(), sizes, strict=True):
        near(books[each].weight, weight, f"weight of {each}")
        near(books[each].value, float(again[each].value.detach()), f"value of {each}")
        near(books[each].grad_norm, abs(weight) * size, f"norm of {each}")
    near(books.total, float(number.detach()), "total")
    booked = sum(weight * value for weight, value in zip(wanted.tolist(), leaves.tolist(), strict=True))
    assert books.balanced == (abs(float(number.detach()) - booked) < 1e-5 * abs(booked)), "what is no sum is unbooked"
