"""A loss in the middle of a network: its gradient follows the loop, and its row is that of an independent gradient."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import headwise as hw
from headwise import losses
from tests.distributed.ranks import on_ranks
from tests.expect import near

WIDE = torch.float64
WEIGHT = 0.3


def balance(chances: Tensor) -> Tensor:
    return chances.shape[1] * chances.mean(0).square().sum()


class Experts(nn.Module):
    """Two layers, each with a router whose balance is booked, in one of the ways."""

    count = 1.0

    def __init__(self, form: str = "function", around: str = "plain", layers: int = 2, **options) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.routers = nn.ModuleList(nn.Linear(3, 4, dtype=WIDE) for _ in range(layers))
        self.experts = nn.ModuleList(nn.Linear(3, 4, dtype=WIDE) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(4, 3, dtype=WIDE) for _ in range(layers))
        self.form, self.around, self.options = form, around, options
        self.chances: list[Tensor] = []
        with torch.no_grad():
            for each in self.parameters():
                each.copy_(torch.randn(each.shape, generator=draw, dtype=WIDE))

    def layer(self, number: int, x: Tensor) -> Tensor:
        chances = self.routers[number](x).softmax(-1)
        self.chances.append(chances)
        options = {"name": "balance", "weight": WEIGHT, **self.options}
        if self.form == "function":
            chances = hw.book(chances, loss=balance, **options)
        elif self.form == "tensor":
            chances = hw.book(chances, loss=balance(chances), **options)
        elif self.form == "sum":
            chances = hw.book(chances, loss=lambda each: (each.square().sum(), self.count), **options)
        more: Tensor = self.down[number](self.experts[number](x) * chances)
        return x + more

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.chances = []
        for number in range(len(self.routers)):
            if self.around == "plain":
                x = self.layer(number, x)
            else:
                x = checkpoint(self.layer, number, x, use_reentrant=self.around == "reentrant")
        return {"y": x}


def batch(size: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 3, generator=draw, dtype=WIDE).requires_grad_()
    return x, torch.randn(size, 3, generator=draw, dtype=WIDE)


def criterion() -> hw.Criterion:
    return hw.Criterion([hw.Term("y", losses.squared_error, output="y", target="t", weight=2.0)])


def by_hand(x: Tensor, target: Tensor, weight: float = WEIGHT, layers: int = 2):
    """Gradients of the whole, and value and squared norm of the balance, without the library."""
    network = Experts("none", layers=layers)
    error = (network(x)["y"] - target).square().mean()
    booked = torch.stack([balance(each) for each in network.chances]).sum()
    whole = torch.autograd.grad(2.0 * error + weight * booked, list(network.parameters()), retain_graph=True)
    square = 0.0
    for each in network.chances:
        leaf = each.detach().requires_grad_()
        (grad,) = torch.autograd.grad(weight * balance(leaf), leaf)
        square += float(grad.square().sum())
    return whole, float(booked.detach()), square


def same(network: nn.Module, wanted, what: str) -> None:
    for each, other in zip(network.parameters(), wanted, strict=True):
        near(each.grad, other, what, 1e-12)


def row(books, value: float, square: float, weight: float = WEIGHT) -> None:
    found = books["balance"]
    near(found.value, value, "value", 1e-9)
    near(found.weight, weight, "weight", 1e-9)
    near(found.weighted, weight * value, "weighted", 1e-9)
    near(found.grad_norm, square**0.5, "gradient norm", 1e-9)
    near(found.share, weight * value / (weight * value + books["y"].weighted), "share", 1e-9)
    near(books.gram.norm("balance"), square**0.5, "norm in the table", 1e-9)
    assert found.finite
    assert found.trained
    assert books.balanced


@pytest.mark.parametrize("around", ["plain", "kept", "reentrant"])
@pytest.mark.parametrize("form", ["function", "tensor"])
@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_gradients_and_books_are_those_of_the_sum(form, around, scale):
    (x, target), network = batch(), Experts(form, around)
    wanted, value, square = by_hand(x, target)
    terms = criterion()
    with hw.Ledger(terms) as ledger:
        (terms(network(x), {"t": target}).total * scale).backward()
        books = ledger.read()
    same(network, [each * scale for each in wanted], "gradient")
    row(books, value, square)
    assert books.factor.value == scale
    near(books.total, 2.0 * books["y"].value + WEIGHT * value, "total", 1e-9)
    assert "balance" in str(books)


def test_gradients_are_equal_to_the_bit_without_books():
    found = []
    for kept in (True, False):
        (x, target), network, terms = batch(), Experts(), criterion()
        ledger = hw.Ledger(terms) if kept else None
        terms(network(x), {"t": target}).total.backward()
        found.append([each.grad for each in network.parameters()])
        if ledger is not None:
            ledger.close()
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_micro_batches_of_means_are_weighed_as_the_loop_weighs_them():
    network, terms, whole = Experts(), criterion(), None
    parts = [batch(4, 1), batch(2, 2)]
    values, squares = [], []
    with hw.Ledger(terms) as ledger:
        for x, target in parts:
            grads, value, square = by_hand(x, target)
            share = len(x) / 6
            values.append(share * value)
            squares.append(share**2 * square)
            whole = (
                [share * g for g in grads]
                if whole is None
                else [a + share * g for a, g in zip(whole, grads, strict=True)]
            )
            (terms(network(x), {"t": target}).total * share).backward()
        terms.advance()
        row(ledger.read(), sum(values), sum(squares))
    same(network, whole, "gradient")


def summed(parts, layers: int = 1):
    """One network, the sums of all chances' squares over the count of the whole step, pooled denominators."""
    network, terms = Experts("sum", layers=layers), criterion()
    network.count = 10.0
    pooled = hw.pool_denominators(terms, [{"t": target} for _, target in parts])
    with hw.Ledger(terms) as ledger:
        for x, target in parts:
            terms(network(x), {"t": target}, pooled).total.backward()
        terms.advance()
        return network, ledger.read()


def test_a_sum_over_the_count_of_the_step_is_the_same_for_every_split():
    x, target = batch(6)
    whole, books = summed([(x, target)])
    split, parts = summed([(x[:2].detach(), target[:2]), (x[2:].detach(), target[2:])])
    same(split, [each.grad for each in whole.parameters()], "gradient")
    for name in ("value", "weight", "weighted", "share", "grad_norm"):
        near(getattr(parts["balance"], name), getattr(books["balance"], name), name, 1e-9)


def test_a_mean_beside_totaled_denominators_is_refused():
    network, terms = Experts(), criterion()
    x, target = batch()
    with pytest.raises(ValueError, match=r"'balance'.*\(sum, count\)"):
        terms(network(x), {"t": target}, hw.pool_denominators(terms, [{"t": target}] * 2))


def test_passes_that_add_nothing():
    (x, target), network, terms = batch(), Experts(), criterion()
    with hw.Ledger(terms) as ledger:
        with torch.no_grad():
            terms(network(x), {"t": target})
        breakdown = terms(network(x), {"t": target})
        plain = Experts("none")
        (wanted,) = torch.autograd.grad((plain(x)["y"] - target).square().mean(), next(plain.routers.parameters()))
        (found,) = torch.autograd.grad(breakdown["y"].value, next(network.routers.parameters()), retain_graph=True)
        near(found, wanted, "the gradient of one entry", 1e-12)
        with pytest.raises(RuntimeError, match=r"'balance'.*breakdown\.total.*scaler"):
            breakdown["y"].value.backward()
        assert ledger.history()[-1:] == [] or "balance" not in ledger.read()


def test_autograd_grad_of_the_total_holds_it():
    (x, target), network, terms = batch(), Experts(), criterion()
    wanted, *_ = by_hand(x, target)
    found = torch.autograd.grad(terms(network(x), {"t": target}).total, list(network.parameters()))
    for one, other in zip(found, wanted, strict=True):
        near(one, other, "gradient", 1e-12)


def test_two_criteria_on_one_network_and_a_sum_of_them():
    (x, target), network = batch(), Experts()
    one, two = criterion(), criterion()
    wanted, value, square = by_hand(x, target)
    plain = Experts("none")
    other = torch.autograd.grad(2.0 * (plain(x)["y"] - target).square().mean(), list(plain.parameters()))
    with hw.Ledger(one) as first, hw.Ledger(two) as second:
        outputs = network(x)
        (one(outputs, {"t": target}).total + 0.5 * two(outputs, {"t": target}).total).backward()
        row(first.read(), value, square)
        assert "balance" not in second.read()
    same(network, [a + 0.5 * b for a, b in zip(wanted, other, strict=True)], "gradient")


def test_a_learned_weight_and_a_weight_of_0():
    x, target = batch()
    weight = nn.Parameter(torch.tensor(WEIGHT, dtype=WIDE))
    network, terms = Experts(weight=weight), criterion()
    wanted, value, square = by_hand(x, target)
    with hw.Ledger(terms) as ledger:
        terms(network(x), {"t": target}).total.backward()
        row(ledger.read(), value, square)
    same(network, wanted, "gradient")
    near(weight.grad, torch.tensor(value, dtype=WIDE), "gradient of the weight", 1e-9)

    idle, wanted = Experts(weight=0.0), by_hand(x, target, 0.0)[0]
    with hw.Ledger(terms) as ledger:
        terms(idle(x), {"t": target}).total.backward()
        found = ledger.read()["balance"]
    same(idle, wanted, "gradient of weight 0")
    assert (found.weight, found.weighted, found.grad_norm) == (0.0, 0.0, 0.0)
    near(found.value, value, "value of weight 0", 1e-9)


def test_a_foreign_criterion_is_told_the_factor():
    x, target = batch()
    wanted, value, square = by_hand(x, target)
    network = Experts(scaler=8.0)
    wrapped = hw.attribution.wrap(lambda outputs, target: {"y": 2.0 * (outputs["y"] - target).square().mean()})
    (8.0 * wrapped(network(x), target)["y"]).backward()
    books = wrapped.ledger.read()
    same(network, [8.0 * each for each in wanted], "gradient")
    near(books["balance"].value, value, "value", 1e-9)
    near(books["balance"].weight, 8.0 * WEIGHT, "weight", 1e-9)
    near(books["balance"].grad_norm, 8.0 * square**0.5, "norm", 1e-9)
    wrapped.ledger.close()


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_compiled_network_breaks_its_graph_there():
    (x, target), terms = batch(), criterion()
    network = Experts()
    wanted, value, square = by_hand(x, target)
    with hw.Ledger(terms) as ledger:
        terms(torch.compile(network, backend="aot_eager")(x), {"t": target}).total.backward()
        row(ledger.read(), value, square)
    same(network, wanted, "gradient")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": lambda each: each.mean(0)}, "one element"),
        ({"loss": lambda each: each.detach().mean()}, "no graph"),
        ({"name": ""}, "name"),
        ({"tensor": torch.ones(3, dtype=torch.long)}, "floating"),
    ],
)
def test_what_is_not_of_the_form_is_refused(change, words):
    given = {"tensor": torch.ones(2, 3, requires_grad=True), "name": "balance", "loss": balance, **change}
    with pytest.raises(ValueError, match=words):
        hw.book(given.pop("tensor"), **given)
    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.func.grad(lambda each: hw.book(each, name="balance", loss=balance).sum())(torch.ones(2, 3))


def test_a_result_that_is_not_used_is_told():
    (x, target), terms = batch(), criterion()
    leaf = torch.ones(2, 3, requires_grad=True)
    hw.book(leaf, name="thrown away", loss=balance)
    with pytest.warns(RuntimeWarning, match="thrown away.*Use the tensor that"):
        terms(Experts("none")(x), {"t": target})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        terms(Experts("none")(x), {"t": target})


def in_ranks(rank: int, world: int):
    """Two ranks, uneven shares, a pair over the step's count."""
    x, target = batch(6)
    x, target = (x[:2].detach(), target[:2]) if rank == 0 else (x[2:].detach(), target[2:])
    network, terms = Experts("sum", layers=1), criterion()
    network.count = 10.0
    wrapped = DistributedDataParallel(network)
    pooled = hw.pool_denominators(terms, [{"t": target}])
    with hw.Ledger(terms) as ledger:
        hw.undo_averaging(terms(wrapped(x), {"t": target}, pooled).total).backward()
        found = ledger.read(across_ranks=True)["balance"]
    grads = [each.grad.clone() for each in network.parameters() if each.grad is not None]
    return grads, (found.value, found.weight, found.grad_norm)


@pytest.mark.slow
def test_two_ranks_have_the_step_of_one():
    network, books = summed([batch(6)])
    for grads, found in on_ranks(in_ranks):
        for one, other in zip(grads, network.parameters(), strict=True):
            near(one, other.grad, "gradient", 1e-12)
        whole = books["balance"]
        near(torch.tensor(found), torch.tensor([whole.value, whole.weight, whole.grad_norm]), "books", 1e-6)


def test_a_criterion_of_another_network_still_compiles_to_one_graph():
    """Which it did not, once any loss had been booked in the process."""
    (x, target), network, terms = batch(), Experts(), criterion()
    terms(network(x), {"t": target}).total.backward()
    other, output = criterion(), torch.randn(2, 3, dtype=WIDE)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda y: other({"y": y}, {"t": torch.zeros_like(y)}).total, fullgraph=True, backend="eager"
    )
    near(compiled(output), 2.0 * output.square().mean(), "total", 1e-12)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo looks at it
def test_a_compiled_criterion_is_told_of_losses_that_wait():
    x, target = batch()
    network, terms = Experts(), criterion()
    torch._dynamo.reset()
    compiled = torch.compile(lambda outputs: terms(outputs, {"t": target}).total, backend="eager")
    compiled(Experts("none")(x)).backward()
    compiled(network(x)).backward()
    wanted, _, _ = by_hand(x, target)
    same(network, wanted, "gradient")
