"""The books of every level of a term against brute force: one `autograd.grad` per level."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import headwise as hw


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


def product(left: Tensor, right: Tensor, target: Tensor) -> Tensor:
    return (left * right * target).sum()


def half(target: Tensor, mask: Tensor | None) -> Tensor:
    return torch.tensor(0.5 * target.numel())


def criterion(**options: Any) -> hw.Criterion:
    """A heat map and a pair of embeddings on each of two stacks, attention maps on each of two scales of each stack."""
    return hw.Criterion(
        [
            hw.Term("heat", squared, half, output="stacks[*].heat", target="heat", weight=0.5,
                    levels=hw.Levels([1.0, 0.25])),
            hw.Term("pull", product, 4.0, output=("stacks[*].first", "stacks[*].second"), target="pull"),
            hw.Term("attention", squared, half, output="stacks[*].attention[*]", target="attention[*]",
                    levels=hw.Levels(pool="all")),
            hw.Term("plain", squared, half, output="plain", target="heat"),
        ],
        **options,
    )  # fmt: skip


def sample(seed: int, scale: float = 1.0) -> tuple[dict[str, Any], dict[str, Any]]:
    draw = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=draw)).requires_grad_()

    stacks = [
        {"heat": leaf(2, 3), "first": leaf(2, 1), "second": leaf(2, 1), "attention": [leaf(2, 1), leaf(2, 4)]}
        for _ in range(2)
    ]
    targets = {"heat": torch.ones(2, 3), "pull": torch.ones(2, 1), "attention": [torch.ones(2, 1), torch.zeros(2, 4)]}
    return {"stacks": stacks, "plain": leaf(2, 3)}, targets


def expected(outputs: dict[str, Any], targets: dict[str, Any]) -> dict[str, dict[str, tuple[float, float]]]:
    """Per term and level the value and the gradient norm, each loss written out."""
    found: dict[str, dict[str, tuple[float, float]]] = {"heat": {}, "pull": {}, "attention": {}}
    for number, (stack, level_weight) in enumerate(zip(outputs["stacks"], (1.0, 0.25), strict=True)):
        name = f"stacks[{number}]"
        found["heat"][name] = numbers(level_weight * squared(stack["heat"], targets["heat"]) / 3, 0.5, [stack["heat"]])
        read = [stack["first"], stack["second"]]
        found["pull"][name] = numbers(product(read[0], read[1], targets["pull"]) / 4, 1.0, read)
        for scale, (output, target) in enumerate(zip(stack["attention"], targets["attention"], strict=True)):
            # The counts 1 and 4 of the two scales, for each of two stacks, are pooled.
            value = squared(output, target) / 10
            found["attention"][f"{name}.attention[{scale}]"] = numbers(value, 1.0, [output])
    return found


def numbers(value: Tensor, weight: float, read: list[Tensor]) -> tuple[float, float]:
    grads = torch.autograd.grad(weight * value, read)
    return float(value.detach()), math.hypot(*(float(grad.norm()) for grad in grads))


@pytest.mark.parametrize("factor", [1.0, 1024.0])
def test_every_level_is_booked(factor):
    outputs, targets = sample(0)
    terms = criterion()
    with hw.Ledger(terms) as ledger:
        breakdown = terms(outputs, targets)
        (factor * breakdown.total).backward()
        books = ledger.read()
    assert books["plain"].levels == {}
    for term, levels in expected(outputs, targets).items():
        assert list(books[term].levels) == list(levels)
        for name, (value, norm) in levels.items():
            level = books[term].levels[name]
            assert level.value == pytest.approx(value, rel=1e-5)
            assert level.weighted == pytest.approx(books[term].weight * value, rel=1e-5)
            size = sum(abs(each.weighted) for each in books.values())
            assert level.share == pytest.approx(level.weighted / size, rel=1e-5)
            assert level.grad_norm == pytest.approx(norm, rel=1e-5)
            assert level.finite
        assert sum(level.value for level in books[term].levels.values()) == pytest.approx(books[term].value, rel=1e-5)
        told = math.hypot(*(level.grad_norm for level in books[term].levels.values()))
        assert told == pytest.approx(books[term].grad_norm, rel=1e-6)


def test_levels_of_micro_batches_are_those_of_the_step():
    batches = [sample(seed) for seed in range(2)]
    terms = criterion()
    with hw.Ledger(terms, micro_batches=2) as ledger:
        denominators = hw.pool_denominators(terms, [targets for _, targets in batches])
        for outputs, targets in batches:
            terms(outputs, targets, denominators).total.backward()
        books = ledger.read()
    singles = [expected(outputs, targets) for outputs, targets in batches]
    for name in ("stacks[0]", "stacks[1]"):
        level = books["heat"].levels[name]
        assert level.value == pytest.approx(sum(each["heat"][name][0] / 2 for each in singles), rel=1e-5)
        assert level.grad_norm == pytest.approx(math.hypot(*(each["heat"][name][1] / 2 for each in singles)), rel=1e-5)


@pytest.mark.parametrize("policy", ["keep", "drop"])
def test_the_level_that_is_not_finite_is_named(policy):
    outputs, targets = sample(0)
    with torch.no_grad():
        outputs["stacks"][1]["heat"][0, 0] = math.inf
    terms = criterion(on_nonfinite=policy)
    with hw.Ledger(terms) as ledger:
        terms(outputs, targets).total.backward()
        levels = ledger.read()["heat"].levels
    assert levels["stacks[0]"].finite
    assert not levels["stacks[1]"].finite


def test_a_term_of_weight_zero_has_levels_of_share_zero():
    outputs, targets = sample(0)
    terms = criterion(weights={"heat": 0.0})
    with hw.Ledger(terms) as ledger:
        terms(outputs, targets).total.backward()
        level = ledger.read()["heat"].levels["stacks[1]"]
    assert level.value > 0
    assert (level.weighted, level.share, level.grad_norm) == (0.0, 0.0, 0.0)


def test_an_output_that_all_levels_share_counts_at_each():
    first, second, shared = (torch.full((3,), float(k), requires_grad=True) for k in (1, 2, 3))
    term = hw.Term("product", lambda one, other: (one * other).sum(), 1.0, output=("levels[*]", "shared"))
    terms = hw.Criterion([term])
    with hw.Ledger(terms, channels=True) as ledger:
        terms({"levels": [first, second], "shared": shared}, {}).total.backward()
        books = ledger.read()["product"]
    # Each level reads its own output (gradient 3) and the shared one (gradient 1 or 2), three elements each.
    assert books.levels["levels[0]"].grad_norm == pytest.approx(math.sqrt(3 * (9 + 1)))
    assert books.levels["levels[1]"].grad_norm == pytest.approx(math.sqrt(3 * (9 + 4)))
    # What both levels send to the shared output is one gradient, 1 + 2.
    assert books.outputs["shared"].grad_norm == pytest.approx(math.sqrt(3 * 9))
    assert books.grad_norm == pytest.approx(math.sqrt(3 * (9 + 9 + 9)))


def test_levels_of_a_compiled_criterion(monkeypatch):
    """Traced whole, forward and backward; without the compiler behind it, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    outputs, targets = sample(0)
    read = []
    for compiled in (False, True):
        terms = criterion(compile=compiled)
        with hw.Ledger(terms) as ledger:
            terms(outputs, targets).total.backward()
            read.append(ledger.read())
    for term in ("heat", "pull", "attention"):
        for name, level in read[0][term].levels.items():
            assert read[1][term].levels[name].value == pytest.approx(level.value, rel=1e-5)
            assert read[1][term].levels[name].grad_norm == pytest.approx(level.grad_norm, rel=1e-5)
