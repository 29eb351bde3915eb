"""What belongs to no term: seen, also where it is not finite; and what only seems to be a stranger."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import headwise as hw
from headwise import losses
from headwise.attribution import watch, wrap

WIDE = torch.float64


class Cascade(nn.Module):
    """The class is computed from the mask, which is an output too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.mask, self.label = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 3)
        self.double()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mask = self.mask(self.trunk(x).tanh())
        return {"mask": mask, "label": self.label(mask.sigmoid())}


class Returning(nn.Module):
    """The same network, which returns its losses."""

    def __init__(self, network: Cascade) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        return foreign(self.network(x), targets)


def foreign(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (outputs[name] - targets[name]).square().mean() for name in ("mask", "label")}


def criterion() -> hw.Criterion:
    return hw.Criterion(
        [
            hw.Term(name, losses.squared_error, output=name, target=name, weight=weight)
            for name, weight in (("mask", 1.0), ("label", 20.0))
        ]
    )


TARGETS = {"mask": torch.zeros(5, 2, dtype=WIDE), "label": torch.ones(5, 3, dtype=WIDE)}


def direct(network: Cascade, x: Tensor) -> dict[str, float]:
    """The norm of each loss at the output that it reads, by hand."""
    outputs = {name: each.detach().requires_grad_() for name, each in network(x).items()}
    found = foreign(outputs, TARGETS)
    (20 * found["label"] + found["mask"]).backward()
    return {name: float(each.grad.norm()) for name, each in outputs.items() if each.grad is not None}


@pytest.mark.parametrize("stranger", [False, True], ids=["alone", "beside a penalty"])
def test_an_output_that_the_network_reads_again(stranger):
    """Was: what comes back through the class was unbooked at the mask, and in `wrap` a part of the term."""
    network, x = Cascade(), torch.randn(5, 3, dtype=WIDE)
    wanted = direct(network, x)
    declared, wrapped = criterion(), wrap(foreign)
    model = Returning(network)
    watches = [watch(model, ["network.mask", "network.label"]), watch(model)]

    def penalty(outputs: dict[str, Tensor]) -> Tensor | float:
        return 0.7 * outputs["mask"].square().sum() if stranger else 0.0

    with hw.Ledger(declared) as ledger:
        outputs = network(x)
        (declared(outputs, TARGETS).total + penalty(outputs)).backward()
        outputs = network(x)
        found = wrapped(outputs, TARGETS)
        (found["mask"] + 20 * found["label"] + penalty(outputs)).backward()
        books = [ledger.read(), wrapped.ledger.read()]
        if not stranger:
            found = model(x, TARGETS)
            (found["mask"] + 20 * found["label"]).backward()
            books += [each.ledger.read() for each in watches]
    for each in books:
        assert each.balanced is not stranger
        for name, norm in wanted.items():
            assert each[name].grad_norm == pytest.approx(norm, rel=1e-9)
    if stranger:
        leaf = network(x)["mask"].detach()
        assert books[0].unbooked.norms["mask"] == pytest.approx(float((1.4 * leaf).norm()), rel=1e-9)
        assert books[1]["unbooked"].grad_norm == pytest.approx(float((1.4 * leaf).norm()), rel=1e-9)
    for watched in watches:
        watched.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_comes_back_is_told_from_rounding(dtype):
    network, declared = Cascade().to(dtype), criterion()
    targets = {name: each.to(dtype) for name, each in TARGETS.items()}
    with hw.Ledger(declared) as ledger:
        for _ in range(20):
            declared(network(torch.randn(5, 3, dtype=dtype)), targets).total.backward()
        assert all(books.balanced for books in ledger.history())


def not_a_number(network: nn.Module, output: Tensor, where: str) -> Tensor:
    if where == "outputs":
        return (0 * output).log().sum() * 0
    weight = next(network.parameters())
    return (0 * weight / 0).sum()


@pytest.mark.parametrize("where", ["outputs", "parameters"])
def test_a_penalty_that_is_not_finite(where):
    """Was: a NaN beside the criterion was taken for a number that nobody had seen: balanced, with a finite total."""
    network = nn.Linear(3, 2)
    declared = hw.Criterion([hw.Term("a", losses.squared_error, output="output", target="t")])
    wrapped = wrap(lambda output, target: {"a": output.square().mean(), "b": output.abs().mean()})
    with hw.Ledger(declared) as ledger:
        output = network(torch.randn(4, 3))
        (declared(output, {"t": torch.zeros(4, 2)}).total + not_a_number(network, output, where)).backward()
        books = ledger.read()
    assert not books.balanced
    assert not books.unbooked.finite
    assert math.isnan(books.unbooked.value)
    assert math.isnan(books.total)
    assert books["a"].finite
    assert math.isfinite(books["a"].share)
    line = next(line for line in str(books).splitlines() if line.startswith("unbooked"))
    assert line.endswith("NO")
    output = network(torch.randn(4, 3))
    found = wrapped(output, None)
    (found["a"] + found["b"] + not_a_number(network, output, where)).backward()
    theirs = wrapped.ledger.read()
    assert not theirs.balanced
    assert not theirs["unbooked"].finite
    assert theirs["a"].finite
    assert theirs["a"].share == pytest.approx(theirs["a"].weighted / (theirs["a"].weighted + theirs["b"].weighted))
    wrapped.ledger.close()


def test_a_term_that_is_not_finite_hides_the_rest_only_from_the_value():
    declared = hw.Criterion([hw.Term("a", losses.squared_error, output="y", target="t")])
    leaf = torch.tensor([math.nan, 1.0], requires_grad=True)
    with hw.Ledger(declared) as ledger:
        declared({"y": leaf}, {"t": torch.zeros(2)}).total.backward()
        books = ledger.read()
    assert not books.unbooked.known
    assert books.balanced
    assert not books["a"].finite


def test_a_penalty_of_parameters_trains_though_it_reads_no_output():
    """Was: its row said that no backward pass went through."""
    network, wrapped = nn.Linear(3, 2), wrap(lambda output, target: {"a": output.square().mean()})
    (wrapped(network(torch.randn(4, 3)), None)["a"] + network.weight.square().sum()).backward()
    assert wrapped.ledger.read()["unbooked"].trained
    wrapped.ledger.close()
