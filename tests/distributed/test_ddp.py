"""The books and the totaled denominators under two-rank DDP on gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import headwise as hw
from tests.criterion.samples import Net, five_targets, five_terms, gradients, images, squared
from tests.distributed.ranks import on_ranks

MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "unused": {"find_unused_parameters": True},
    "static": {"static_graph": True},
}
SHARES = (slice(0, 1), slice(1, 4))


def split_exact_terms() -> hw.Criterion:
    """All terms but the mined one, whose choice inside a micro-batch depends on the split."""
    return hw.Criterion([term for term in five_terms() if term.name != "region"], unread=["maps[:, 0:2]"])


def part_of(targets: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    return {name: tensor[SHARES[rank]] for name, tensor in targets.items()}


def ddp_steps(rank: int, world: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    image, targets = images(4), five_targets(4)
    for mode, options in MODES.items():
        for books in (False, True):
            network = DistributedDataParallel(Net(), **options)
            criterion = split_exact_terms()
            ledger = hw.Ledger(criterion) if books else None
            for _ in range(3):
                network.zero_grad()
                denominators = hw.pool_denominators(criterion, [part_of(targets, rank)])
                breakdown = criterion(network(image[SHARES[rank]]), part_of(targets, rank), denominators)
                (breakdown.total * world).backward()
            read = ledger.read() if ledger else None
            norms = {name: read[name].grad_norm for name in read} if read else None
            everywhere = ledger.read(across_ranks=True) if ledger else None
            found[f"{mode}, {books}"] = gradients(network), norms, everywhere
    found["weight 0"] = silent_head()
    found["drop"] = one_bad_rank(rank, "drop")
    found["raise"] = one_bad_rank(rank, "raise")
    return found


def silent_head() -> list[Tensor]:
    """A term of weight 0 and an empty mask: DDP without find_unused_parameters must neither hang nor raise."""
    network = DistributedDataParallel(Net())
    criterion = hw.Criterion(five_terms(line=0.0))
    targets = five_targets() | {"line": torch.zeros(2, 12, 12, dtype=torch.bool)}
    for _ in range(2):
        network.zero_grad()
        criterion(network(images()), targets).total.backward()
    return gradients(network)


def one_bad_rank(rank: int, policy: Any) -> Any:
    """Rank 1 alone has a term whose gradient is not finite."""

    def fragile(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs().sqrt().sum()

    terms = [hw.Term("good", squared, output="x", target="zero"), hw.Term("bad", fragile, output="x", target="t")]
    criterion = hw.Criterion(terms, on_nonfinite=policy)
    x = torch.ones(2, 2, requires_grad=True)
    total = criterion({"x": x}, {"zero": torch.zeros(2, 2), "t": torch.full((2, 2), float(rank))}).total
    try:
        total.backward()
    except hw.NonFiniteGradientError as error:
        return str(error)
    return x.grad


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    return on_ranks(ddp_steps)


@pytest.fixture(scope="module")
def whole() -> tuple[list[Tensor], hw.attribution.Books]:
    """One process with the whole batch."""
    network, criterion = Net(), split_exact_terms()
    with hw.Ledger(criterion) as ledger:
        criterion(network(images(4)), five_targets(4)).total.backward()
        return gradients(network), ledger.read()


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_those_of_the_whole_batch_and_equal_to_the_bit_with_books(results, whole, mode):
    without, with_books = results[0][f"{mode}, False"][0], results[0][f"{mode}, True"][0]
    for plain, booked, other, wanted in zip(without, with_books, results[1][f"{mode}, True"][0], whole[0], strict=True):
        assert torch.equal(plain, booked)
        assert torch.equal(booked, other)
        torch.testing.assert_close(booked, wanted, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_squared_norms_of_the_ranks_add_up(results, whole, mode):
    for name, books in whole[1].items():
        norms = [result[f"{mode}, True"][1][name] for result in results]  # the factor `world` is divided out
        assert (norms[0] ** 2 + norms[1] ** 2) ** 0.5 == pytest.approx(books.grad_norm, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_books_across_ranks_are_those_of_the_whole_batch(results, whole, mode):
    for result in results:
        books = result[f"{mode}, True"][2]
        assert books.scope == "global"
        for name, wanted in whole[1].items():
            assert books[name].value == pytest.approx(wanted.value, rel=1e-5)
            assert books[name].share == pytest.approx(wanted.share, rel=1e-5)
            assert books[name].grad_norm == pytest.approx(wanted.grad_norm, rel=1e-5)
        assert books.cosine("sin", "cos") == pytest.approx(whole[1].cosine("sin", "cos"), rel=1e-5)


def test_silent_heads_get_zero_gradients(results):
    assert all(torch.isfinite(gradient).all() for gradient in results[0]["weight 0"])


def test_each_rank_judges_what_it_sees(results):
    """A backward pass waits for no other rank: rank 1 leaves out what it cannot use, rank 0 keeps its part."""
    good, fragile = 2 * 1.0 / 4, 0.5 / 4
    torch.testing.assert_close(results[0]["drop"], torch.full((2, 2), good + fragile))
    torch.testing.assert_close(results[1]["drop"], torch.full((2, 2), good))
    torch.testing.assert_close(results[0]["raise"], torch.full((2, 2), good + fragile))
    assert "term 'bad' at output 'x'" in results[1]["raise"]
