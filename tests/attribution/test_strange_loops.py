"""Loops in manners of their own: each booked number beside `autograd.grad`, or said to be unbooked."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import headwise as hw
from tests.attribution.ground import WEIGHTS, Ground, tried
from tests.attribution.loops import NAMES, Program, batch_of, terms


def clipped_by_groups(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    breakdown.total.backward()
    for group in (ground.network.trunk, ground.network.one):
        nn.utils.clip_grad_norm_(group.parameters(), 0.1)
    ground.optimizer.step()
    ground.note(outputs, targets, 1.0)
    ground.check()


def sharpness_aware(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    breakdown.total.backward()
    ground.note(outputs, targets, 1.0)
    before = [each.detach().clone() for each in ground.network.parameters()]
    with torch.no_grad():
        for each in ground.network.parameters():
            assert each.grad is not None
            each.add_(0.05 * each.grad)
    ground.optimizer.zero_grad()
    outputs, breakdown, targets = ground.call()
    breakdown.total.backward()
    ground.note(outputs, targets, 1.0)
    with torch.no_grad():
        for each, old in zip(ground.network.parameters(), before, strict=True):
            each.copy_(old)
    ground.optimizer.step()
    ground.check()


def averaged_weights(ground: Ground) -> None:
    mean = copy.deepcopy(ground.network)
    outputs, breakdown, targets = ground.call()
    breakdown.total.backward()
    ground.optimizer.step()
    ground.note(outputs, targets, 1.0)
    with torch.no_grad():
        for slow, fast in zip(mean.parameters(), ground.network.parameters(), strict=True):
            slow.lerp_(fast, 0.1)
        ground.call(network=mean)
    ground.check()


def gradient_penalty(ground: Ground) -> None:
    x, targets = batch_of(Program(5, (3,)), 0)
    x.requires_grad_()
    outputs = ground.network(x)
    total = ground.criterion(outputs, targets).total
    (slope,) = torch.autograd.grad(total, x, create_graph=True)
    penalty = 0.3 * slope.square().sum()
    (total + penalty).backward()
    ground.optimizer.step()
    ground.note(outputs, targets, 1.0)
    books = ground.check(balanced=False, norms=False)
    assert books.unbooked.value == pytest.approx(float(penalty.detach()), rel=1e-6)


def two_optimizers(ground: Ground) -> None:
    heads = torch.optim.Adam([*ground.network.one.parameters(), *ground.network.two.parameters()])
    heads.register_step_post_hook(lambda *_: ground.ledger.step())
    for _ in range(2):
        outputs, breakdown, targets = ground.call()
        breakdown.total.backward()
        ground.optimizer.step()
        heads.step()
    ground.note(outputs, targets, 1.0)
    ground.check()
    assert [each.step for each in ground.ledger.history()] == [0, 1]


def several_roots(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    torch.autograd.backward(
        [breakdown["a"].weighted, breakdown["b"].value, breakdown["c"].value], [torch.tensor(2.0).double(), None, None]
    )
    ground.note(outputs, targets, {"a": 2.0, "b": 1.0, "c": 1.0})
    ground.check()


def gradients_by_hand(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    parameters = list(ground.network.parameters())
    for each, grad in zip(parameters, torch.autograd.grad(breakdown.total, parameters), strict=True):
        each.grad = grad
    ground.optimizer.step()
    ground.note(outputs, targets, 1.0)
    ground.check()


def a_plain_loss_beside(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    plain = nn.functional.mse_loss(outputs["two"], torch.zeros_like(outputs["two"]))
    (breakdown.total + plain).backward()
    ground.note(outputs, targets, 1.0)
    books = ground.check(balanced=False)
    leaf = outputs["two"].detach().requires_grad_()
    (grad,) = torch.autograd.grad(leaf.square().mean(), leaf)
    assert books.unbooked.value == pytest.approx(float(plain.detach()), rel=1e-6)
    assert books.unbooked.norms["two"] == pytest.approx(float(grad.norm()), rel=1e-6)


def functional(ground: Ground) -> None:
    x, targets = batch_of(Program(5, (3,)), 0)
    parameters: dict[str, Tensor] = dict(ground.network.named_parameters())

    def total(these: dict[str, Tensor], criterion: hw.Criterion) -> Tensor:
        found: Tensor = criterion(torch.func.functional_call(ground.network, these, x), targets).total
        return found

    found = torch.func.grad(total)(parameters, ground.criterion)
    wanted = torch.autograd.grad(total(parameters, hw.Criterion(terms(WEIGHTS))), list(parameters.values()))
    assert all(torch.allclose(found[name], each) for name, each in zip(parameters, wanted, strict=True))
    outputs, breakdown, targets = ground.call()
    ground.end(outputs, breakdown, targets)


def hooks_that_scale(ground: Ground) -> None:
    x, targets = batch_of(Program(5, (3,)), 0)
    outputs = ground.network(x)
    outputs["one"].register_hook(lambda grad: 0.5 * grad)
    ground.criterion(outputs, targets).total.backward()
    ground.note(outputs, targets, 1.0)
    books = ground.check(balanced=False)
    assert books.unbooked.norms["one"] == pytest.approx(0.5 * books["a"].grad_norm, rel=1e-6)


def twice_through(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    breakdown.total.backward(retain_graph=True)
    breakdown.total.backward()
    ground.optimizer.step()
    ground.note(outputs, targets, 2.0)
    ground.check()


def nested_windows(ground: Ground) -> None:
    for _ in range(2):
        for size in (2, 3):
            outputs, breakdown, targets = ground.call(size)
            (breakdown.total / 4).backward()
            ground.note(outputs, targets, 0.25)
    ground.optimizer.step()
    ground.check()


def a_gradient_given(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    breakdown.total.backward(gradient=torch.tensor(3.0, dtype=torch.float64))
    ground.note(outputs, targets, 3.0)
    ground.check()


def divided_by_itself(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    total = breakdown.total
    (total / total.detach()).backward()
    ground.note(outputs, targets, 1 / float(total.detach()))
    ground.check()


def its_logarithm(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    breakdown.total.log().backward()
    ground.note(outputs, targets, 1 / float(breakdown.total.detach()))
    ground.check(balanced=False)


def terms_in_turn(ground: Ground) -> None:
    for step in range(4):
        outputs, breakdown, targets = ground.call()
        name = NAMES[step % 3]
        breakdown[name].weighted.backward()
        ground.optimizer.step()
        ground.optimizer.zero_grad()
        ground.note(outputs, targets, {each: WEIGHTS[each] * (each == name) for each in NAMES})
        ground.check()


def closures(ground: Ground) -> None:
    optimizer = torch.optim.LBFGS(ground.network.parameters(), max_iter=3)
    optimizer.register_step_post_hook(lambda *_: ground.ledger.step())

    def closure() -> Tensor:
        optimizer.zero_grad()
        outputs, breakdown, targets = ground.call()
        breakdown.total.backward()
        ground.note(outputs, targets, 1.0)
        found: Tensor = breakdown.total
        return found

    optimizer.step(closure)
    ground.check()
    assert len(ground.ledger.history()) == 1


def one_detached(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    (breakdown["a"].weighted.detach() + breakdown["b"].weighted + breakdown["c"].weighted).backward()
    ground.note(outputs, targets, {"a": 0.0, "b": WEIGHTS["b"], "c": WEIGHTS["c"]})
    books = ground.check(balanced=False)
    assert books.unbooked.value == pytest.approx(float(breakdown["a"].weighted.detach()), rel=1e-6)


def late_and_in_reverse(ground: Ground) -> None:
    held = [ground.call(size) for size in (2, 4)]
    for outputs, breakdown, targets in reversed(held):
        (0.5 * breakdown.total).backward()
        ground.note(outputs, targets, 0.5)
    ground.optimizer.step()
    ground.check()


def one_sum_of_two_calls(ground: Ground) -> None:
    held = [ground.call(size) for size in (2, 4)]
    (0.25 * held[0][1].total + 0.75 * held[1][1].total).backward()
    for (outputs, _, targets), factor in zip(held, (0.25, 0.75), strict=True):
        ground.note(outputs, targets, factor)
    ground.optimizer.step()
    ground.check()


def accumulated_in_the_gradient_hook(ground: Ground) -> None:
    """An optimizer that steps inside of the backward pass, parameter by parameter."""
    small = {each: torch.optim.SGD([each], lr=0.01) for each in ground.network.parameters()}
    for each, own in small.items():
        each.register_post_accumulate_grad_hook(lambda _, own=own: own.step())
    outputs, breakdown, targets = ground.call()
    breakdown.total.backward()
    ground.ledger.step()
    ground.note(outputs, targets, 1.0)
    ground.check()


LOOPS: list[Callable[[Ground], None]] = [
    clipped_by_groups,
    sharpness_aware,
    averaged_weights,
    gradient_penalty,
    two_optimizers,
    several_roots,
    gradients_by_hand,
    a_plain_loss_beside,
    functional,
    hooks_that_scale,
    twice_through,
    nested_windows,
    a_gradient_given,
    divided_by_itself,
    its_logarithm,
    terms_in_turn,
    closures,
    one_detached,
    late_and_in_reverse,
    one_sum_of_two_calls,
    accumulated_in_the_gradient_hook,
]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_loop_in_a_manner_of_its_own(loop):
    tried(loop)
