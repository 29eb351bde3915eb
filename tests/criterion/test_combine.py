"""The total, one node, beside the same arithmetic with a graph at every step; and what a compiled criterion notices."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import headwise as hw
from headwise.criterion.sums.combine import combine, total_of
from headwise.criterion.sums.term_sums import Sums
from headwise.criterion.sums.vectors import Number


def draw(seed: int) -> tuple[list[Tensor], Any, list[Any], list[Tensor]]:
    """Numerators, how they make sums, weights, and tokens."""
    choose = random.Random(seed)
    dtype = choose.choice([torch.float32, torch.float64])
    generator = torch.Generator().manual_seed(seed)
    levels = [choose.choice([None, (0.5, 2.0, 0.25), (1.0,)]) for _ in range(choose.randint(1, 4))]
    numerators = [torch.randn((), generator=generator, dtype=dtype) for each in levels for _ in (each or (1.0,))]
    as_tensors = choose.random() < 0.5
    counts = [choose.choice([0.0, 1.0, 3.0, 7.0]) for _ in numerators]
    pooled, least = [choose.random() < 0.3 for _ in levels], [choose.choice([0.0, 1.0]) for _ in levels]

    def sums(found: list[Tensor]) -> list[Sums]:
        tops = iter(found)
        bottoms: Iterator[Number] = iter([torch.tensor(each) for each in counts] if as_tensors else counts)
        return [
            Sums(
                tuple(itertools.islice(tops, len(each or (1.0,)))),
                tuple(itertools.islice(bottoms, len(each or (1.0,)))),
                0.0,
                each,
                pool and each is not None,
                floor,
            )
            for each, pool, floor in zip(levels, pooled, least, strict=True)
        ]

    weights: list[Any] = [choose.choice([0.0, 0.3, -2.0, 1.0]) for _ in levels]
    if choose.random() < 0.3:
        weights[0] = torch.tensor(choose.choice([0.0, 0.7]))
    tokens = [torch.zeros((), dtype=dtype)] if choose.random() < 0.3 else []
    return numerators, sums, weights, tokens


@pytest.mark.parametrize("as_vector", [False, True])
def test_the_total_and_its_gradients_are_those_of_every_step_to_the_bit(as_vector):
    for seed in range(60):
        numerators, sums, weights, tokens = draw(seed)
        fine = [each.clone().requires_grad_() for each in numerators]
        slow = combine(sums([each * 1 for each in fine]), weights)
        wanted = torch.autograd.grad(3 * slow.total, fine)
        leaves = [each.clone().requires_grad_() for each in numerators]
        top = torch.stack([each * 1 for each in leaves]) if as_vector else None
        seen: list[Tensor] = []
        made = sums([each * 1 for each in leaves])
        made = [each._replace(numerators=()) for each in made] if as_vector else made
        fast = total_of(made, top, weights, tokens, frozenset(), seen.append)
        found = torch.autograd.grad(3 * fast.total, leaves)
        assert torch.equal(fast.values, slow.values)
        assert torch.equal(fast.weighted, slow.weighted)
        assert torch.equal(fast.total, slow.total)
        for one, other in zip(found, wanted, strict=True):
            assert torch.equal(one, other)
        assert [float(each) for each in seen] == [3.0]


def test_idle_terms_get_no_graph_whatever_form_they_come_in():
    x = torch.tensor([2.0, float("inf")], requires_grad=True)
    for top in (None, x * 1):
        numerators = tuple((x * 1).unbind())
        sums = [Sums((each,) if top is None else (), (2.0,)) for each in numerators]
        total = total_of(sums, top, [1.0, 0.0], [], frozenset([(1, 0)]), None).total
        (grad,) = torch.autograd.grad(total, x)
        assert total.item() == 1.0
        assert grad.tolist() == [0.5, 0.0]


def test_higher_derivatives_and_forward_mode():
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).pow(3).sum()

    terms = [hw.Term(name, loss, output=name, target="t", weight=w) for name, w in (("a", 2.0), ("b", 0.5))]
    criterion = hw.Criterion(terms)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    t = torch.zeros(3, 2, dtype=torch.float64)

    def total(x: Tensor) -> Tensor:
        breakdown: hw.Breakdown = criterion({"a": x, "b": 2 * x}, {"t": t})
        return breakdown.total

    assert torch.autograd.gradcheck(total, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(total, x)


def test_a_compiled_criterion_notices_what_its_loss_reads():
    held = {"scale": 1.0}

    def scaled(output: Tensor, target: Tensor) -> Tensor:
        return held["scale"] * (output - target).square().sum()

    criterion = hw.Criterion([hw.Term("a", scaled, output="y", target="t", weight=0.5)], compile=True)
    y, t = torch.ones(2, 2, requires_grad=True), torch.zeros(2, 2)
    assert criterion({"y": y}, {"t": t}).total.item() == 0.5
    held["scale"] = 3.0
    breakdown = criterion({"y": y}, {"t": t})
    assert breakdown.total.item() == 1.5
    assert breakdown["a"].ratio.numerator.item() == 12.0
    (grad,) = torch.autograd.grad(breakdown["a"].weighted, y)
    assert torch.equal(grad, torch.full((2, 2), 0.75))
