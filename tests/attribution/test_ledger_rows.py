"""Rows are written many at a time: what they say is what each would say by itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import headwise as hw
from headwise import losses
from headwise.criterion.junctions.stats import Product, products_of
from tests.criterion.samples import squared

SMALL, LARGE = (2, 3, 4, 4), (2, 3, 128, 128)


def terms() -> list[hw.Term]:
    """One output of one reader, one that two share in part, one over levels."""
    return [
        hw.Term("alone", losses.squared_error, output="alone", target="t", weight=0.5),
        hw.Term("front", squared, output="shared[:, 0:2]", target="front", weight=2.0),
        hw.Term("back", squared, output="shared[:, 1:3]", target="front", weight=0.25),
        hw.Term("deep", losses.absolute_error, output="deep[*]", target="t", levels=hw.Levels(weights=(1.0, 0.5))),
    ]


def batch(shape: tuple[int, ...], seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    alone, shared, *deep = [torch.randn(shape, generator=draw, requires_grad=True) for _ in range(4)]
    t = torch.randn(shape, generator=draw)
    return {"alone": alone * 1, "shared": shared * 2, "deep": [each * 3 for each in deep]}, {"t": t, "front": t[:, 0:2]}


def numbers(books: hw.attribution.Books) -> dict[str, float]:
    found = {"total": books.total, "unbooked": books.unbooked.value, "arrived": books.unbooked.grad_norm}
    for name, each in books.items():
        found |= {f"{name} {key}": getattr(each, key) for key in ("value", "weight", "weighted", "share", "grad_norm")}
        found |= {f"{name} {path}": output.grad_norm for path, output in each.outputs.items()}
        found |= {f"{name} {level}": of_level.value for level, of_level in each.levels.items()}
    return {**found, "cosine": books.cosine("front", "back") or math.nan}


def test_rows_written_together_are_those_written_one_by_one():
    one, together = hw.Criterion(terms()), hw.Criterion(terms())
    shapes = [SMALL, SMALL, LARGE, SMALL, (5, 3, 4, 4), LARGE] * 4
    with hw.Ledger(one) as first, hw.Ledger(together) as second:
        singly = []
        for step, shape in enumerate(shapes):
            for criterion in (one, together):
                outputs, targets = batch(shape, step)
                total = criterion(outputs, targets).total
                ((3.0 if step % 3 else 1.0) * total + (outputs["alone"].sum() if step == 7 else 0.0)).backward()
                criterion.advance()
            singly.append(first.read())
        found = second.history()
    assert len(found) == len(shapes)
    for step, (each, other) in enumerate(zip(singly, found, strict=True)):
        assert each.balanced == other.balanced == (step != 7)
        assert numbers(other) == pytest.approx(numbers(each), rel=1e-12, abs=1e-12, nan_ok=True)
    outputs, targets = batch(shapes[0], 0)
    entry = hw.Criterion(terms())(outputs, targets)["alone"]
    (grad,) = torch.autograd.grad(entry.weighted, outputs["alone"])
    assert found[0]["alone"].grad_norm == pytest.approx(float(grad.double().norm()), rel=1e-6)


def test_a_learned_weight_is_booked_as_it_was_before_the_optimizer_moved_it():
    weight = nn.Parameter(torch.tensor(2.0))
    criterion = hw.Criterion([hw.Term("a", losses.squared_error, output="y", target="t", weight=weight)])
    y = torch.ones(4, 2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    with hw.Ledger(criterion, optimizer=optimizer) as ledger:
        for _ in range(2):
            optimizer.zero_grad()
            criterion({"y": y}, {"t": torch.zeros(4, 2)}).total.backward()
            optimizer.step()
        assert [books["a"].weight for books in ledger.history()] == [2.0, 1.5]
    assert weight.item() == 1.0


def test_a_number_that_the_loop_wrote_over_is_not_known():
    criterion = hw.Criterion([hw.Term("a", losses.squared_error, output="y", target="t")])
    y = torch.ones(4, 2, requires_grad=True)
    with hw.Ledger(criterion) as ledger:
        total = criterion({"y": y}, {"t": torch.zeros(4, 2)}).total
        total.backward()
        with torch.no_grad():
            total /= 8
        books = ledger.read()
    assert math.isnan(books.unbooked.value)
    assert books["a"].value == 1.0


@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_one_tensor_under_two_paths(penalty):
    names = ("a", "b")
    criterion = hw.Criterion([hw.Term(name, losses.squared_error, output=name, target="t") for name in names])
    x = torch.tensor([[1.0], [2.0]], requires_grad=True)
    for y in (x * 1, x):
        with hw.Ledger(criterion) as ledger:
            (criterion({"a": y, "b": y}, {"t": torch.zeros(2, 1)}).total + penalty * y.sum()).backward()
            books = ledger.read()
        assert books.balanced == (penalty == 0.0)
        assert books.unbooked.grad_norm == pytest.approx(penalty * 2**0.5)
        assert books["b"].grad_norm == pytest.approx(5**0.5)


def test_a_leaf_is_listened_to_once_and_no_longer_than_the_books_are_open():
    criterion = hw.Criterion([hw.Term("a", losses.squared_error, output="y", target="t")])
    leaf = nn.Parameter(torch.ones(4, 2))
    with hw.Ledger(criterion) as ledger:
        for step in range(40):
            (criterion({"y": leaf}, {"t": torch.zeros(4, 2)}).total + step * leaf.sum()).backward()
        assert len(leaf._backward_hooks or {}) == 1
        found = [books.unbooked.grad_norm for books in ledger.history()]
    assert found == pytest.approx([step * 8**0.5 for step in range(40)])
    assert not leaf._backward_hooks


def test_products_that_waited_are_those_of_each_pair():
    draw = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (4,), (3, 2), (), (3, 2), (4,), (5, 1)]
    pairs = [(torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)) for shape in shapes]
    waited: list[Product] = [torch.tensor(7.0), *pairs, torch.tensor(-1.0)]
    wanted = [7.0, *[float((one.double() * other.double()).sum()) for one, other in pairs], -1.0]
    assert products_of(waited).tolist() == pytest.approx(wanted, rel=1e-12)
    for each, number in zip(waited, wanted, strict=True):
        assert products_of([each]).tolist() == pytest.approx([number], rel=1e-12)
