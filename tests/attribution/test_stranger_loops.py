"""More loops in manners of their own, as published training code has them: right, or said to be unbooked."""

from __future__ import annotations

import copy
import gc
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

import headwise as hw
from headwise import losses
from tests.attribution.ground import WEIGHTS, Ground, tried
from tests.attribution.loops import NAMES, Heads, Program, batch_of, terms

WIDE = torch.float64


def declared(breakdown: Any) -> list[Tensor]:
    return [breakdown[name].weighted for name in NAMES]


def mixed_up_targets(ground: Ground) -> None:
    """Mixup: the losses of two sets of targets, on one forward pass."""
    x, targets = batch_of(Program(1, (4,)), 0)
    outputs, order = ground.network(x), torch.tensor([2, 0, 3, 1])
    shuffled = {name: each[order] for name, each in targets.items()}
    for kept in (targets, shuffled):
        ground.note(outputs, kept, 0.3 if kept is targets else 0.7)
    first, second = ground.criterion(outputs, targets), ground.criterion(outputs, shuffled)
    (0.3 * first.total + 0.7 * second.total).backward()
    ground.optimizer.step()
    ground.check()


def added_in_place(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    loss = torch.zeros((), dtype=WIDE)
    for each in declared(breakdown):
        loss += each
    loss.backward()
    ground.note(outputs, targets, WEIGHTS)
    ground.check()


def scaled_in_place(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    loss = breakdown.total
    loss *= 0.5
    loss.backward()
    ground.note(outputs, targets, 0.5)
    ground.check()


def divided_in_place_for_accumulation(ground: Ground) -> None:
    for size in (2, 3):
        outputs, breakdown, targets = ground.call(size)
        breakdown.total.div_(2).backward()
        ground.note(outputs, targets, 0.5)
    ground.optimizer.step()
    ground.check()


def stacked_and_summed(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    torch.stack(declared(breakdown)).sum().backward()
    ground.note(outputs, targets, WEIGHTS)
    ground.check()


def stacked_and_averaged(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    torch.stack(declared(breakdown)).mean().backward()
    ground.note(outputs, targets, {name: each / 3 for name, each in WEIGHTS.items()})
    ground.check()


def a_matrix_product_with_weights(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    (torch.tensor([0.2, 0.3, 0.5], dtype=WIDE) @ torch.stack([breakdown[name].value for name in NAMES])).backward()
    ground.note(outputs, targets, dict(zip(NAMES, (0.2, 0.3, 0.5), strict=True)))
    ground.check()


def a_dict_of_losses(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    found = {name: each.weighted for name, each in breakdown.items()}
    sum(found.values()).backward()
    ground.note(outputs, targets, WEIGHTS)
    ground.check()


def weighed_by_ratios_of_items(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    values = {name: breakdown[name].value for name in NAMES}
    factors = {name: values["a"].item() / values[name].item() for name in NAMES}
    sum(factors[name] * values[name] for name in NAMES).backward()
    ground.note(outputs, targets, factors)
    ground.check()


def each_divided_by_itself(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    sum(breakdown[name].value / breakdown[name].value.detach() for name in NAMES).backward()
    ground.note(outputs, targets, {name: 1 / breakdown[name].value.item() for name in NAMES})
    ground.check()


def twice_with_other_factors(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    (0.25 * breakdown.total).backward(retain_graph=True)
    (2 * breakdown["b"].weighted).backward()
    ground.note(outputs, targets, {name: WEIGHTS[name] * (0.25 + 2 * (name == "b")) for name in NAMES})
    ground.check()


def micro_batches_by_their_size(ground: Ground) -> None:
    for size in (1, 4, 2):
        outputs, breakdown, targets = ground.call(size)
        (breakdown.total * size / 7).backward()
        ground.note(outputs, targets, size / 7)
    ground.optimizer.step()
    ground.check()


def zeroed_late(ground: Ground) -> None:
    """The gradients are zeroed between forward and backward, and not set to None."""
    for _ in range(2):
        outputs, breakdown, targets = ground.call()
        ground.optimizer.zero_grad(set_to_none=False)
        breakdown.total.backward()
        nn.utils.clip_grad_norm_(ground.network.parameters(), 0.01)
        ground.optimizer.step()
        ground.note(outputs, targets, 1.0)
        ground.check()


def skipped_where_not_finite(ground: Ground) -> None:
    x, targets = batch_of(Program(3, (3,)), 0)
    for bad in (False, True, False):
        outputs = ground.network(x * math.nan if bad else x)
        total = ground.criterion(outputs, targets).total
        if not torch.isfinite(total):
            continue
        total.backward()
        ground.optimizer.step()
        ground.optimizer.zero_grad()
        ground.note(outputs, targets, 1.0)
        ground.check()
    assert len(ground.ledger.history()) == 2


def the_largest_alone(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    values = {name: breakdown[name].value for name in NAMES}
    largest = max(NAMES, key=lambda name: values[name].item())
    torch.stack(list(values.values())).max().backward()
    ground.note(outputs, targets, {name: float(name == largest) for name in NAMES})
    ground.check()


def chosen_by_a_condition(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    torch.where(torch.tensor(True), breakdown["a"].value, breakdown["b"].value).backward()
    ground.note(outputs, targets, {"a": 1.0, "b": 0.0, "c": 0.0})
    ground.check()


def learned_uncertainty(ground: Ground) -> None:
    s = nn.Parameter(torch.tensor([0.1, -0.2, 0.3], dtype=WIDE))
    outputs, breakdown, targets = ground.call()
    sum((-s[n]).exp() * breakdown[name].value + s[n] for n, name in enumerate(NAMES)).backward()
    ground.note(outputs, targets, {name: math.exp(-s[n].item()) for n, name in enumerate(NAMES)})
    books = ground.check(balanced=False)
    assert books.unbooked.value == pytest.approx(s.sum().item(), rel=1e-6)


def gradients_combined_by_hand(ground: Ground) -> None:
    """As PCGrad: a gradient per term, by `autograd.grad`, combined and written to the parameters."""
    outputs, breakdown, targets = ground.call()
    parameters = list(ground.network.parameters())
    rows = [torch.autograd.grad(each, parameters, retain_graph=True, allow_unused=True) for each in declared(breakdown)]
    for number, each in enumerate(parameters):
        each.grad = sum((row[number] for row in rows if row[number] is not None), torch.zeros_like(each))
    ground.optimizer.step()
    ground.note(outputs, targets, WEIGHTS)
    ground.check()


def weights_from_gradient_norms(ground: Ground) -> None:
    """As GradNorm: norms of gradients with a graph give the weights a loss of their own."""
    weight = nn.Parameter(torch.tensor([1.0, 0.5, 2.0], dtype=WIDE))
    outputs, breakdown, targets = ground.call()
    shared = ground.network.trunk.weight
    norms = torch.stack(
        [
            torch.autograd.grad(weight[n] * breakdown[name].value, shared, retain_graph=True, create_graph=True)[
                0
            ].norm()
            for n, name in enumerate(NAMES)
        ]
    )
    weight.grad = torch.autograd.grad((norms - norms.mean().detach()).abs().sum(), weight, retain_graph=True)[0]
    sum(weight[n].detach() * breakdown[name].value for n, name in enumerate(NAMES)).backward()
    ground.optimizer.step()
    ground.note(outputs, targets, WEIGHTS)
    ground.check()


def recomputed_reentrantly(ground: Ground) -> None:
    x, targets = batch_of(Program(4, (3,)), 0)
    feature = checkpoint(lambda x: ground.network.trunk(x).tanh(), x.requires_grad_(), use_reentrant=True)
    outputs = {"one": ground.network.one(feature), "two": ground.network.two(feature)}
    ground.criterion(outputs, targets).total.backward()
    ground.note(outputs, targets, 1.0)
    ground.check()


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_criterion_that_is_recomputed(reentrant, early_stop):
    """The criterion itself lies in the checkpoint: it is called again in the backward pass. Was: an AttributeError."""
    ground = Ground()
    x, targets = batch_of(Program(4, (3,)), 0)
    outputs = ground.network(x)
    keys = list(outputs)

    def loss(*given: Tensor) -> Tensor:
        found: Tensor = ground.criterion(dict(zip(keys, given, strict=True)), targets).total
        return found

    with ground.ledger, set_checkpoint_early_stop(early_stop):
        number = checkpoint(loss, *outputs.values(), use_reentrant=reentrant)
        number.backward(retain_graph=not reentrant)
        if not reentrant:
            number.backward()
        ground.ledger.step()
        ground.note(outputs, targets, 1.0 if reentrant else 2.0)
        ground.check()
    assert len(ground.ledger.history()) == 1


def a_hook_on_the_total(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    breakdown.total.register_hook(lambda grad: 0.5 * grad)
    breakdown.total.backward()
    norms = {name: books.grad_norm for name, books in ground.ledger.read().items()}
    ground.note(outputs, targets, 0.5)
    books = ground.ledger.read()
    # The gradient is half of what the number says: said, or the factor is seen with it.
    assert not books.balanced or books.factor.value == pytest.approx(0.5)
    assert norms["a"] > 0


def a_number_of_two_calls_and_a_shared_penalty(ground: Ground) -> None:
    held = [ground.call(size) for size in (2, 4)]
    penalty = 0.1 * ground.network.trunk.weight.square().sum()
    (held[0][1].total + held[1][1].total + penalty).backward()
    for outputs, _, targets in held:
        ground.note(outputs, targets, 1.0)
    ground.optimizer.step()
    books = ground.check(balanced=False)
    # Which call it belongs to is nobody's to say: each has it, and the step is a mean of its calls.
    assert books.unbooked.value != 0


def an_ensemble(ground: Ground) -> None:
    networks = [ground.network, Heads(8), Heads(9)]
    held = [ground.call(3, each) for each in networks]
    torch.stack([breakdown.total for _, breakdown, _ in held]).mean().backward()
    for outputs, _, targets in held:
        ground.note(outputs, targets, 1 / 3)
    ground.optimizer.step()
    ground.check()


def distilled_from_a_mean_teacher(ground: Ground) -> None:
    teacher = copy.deepcopy(ground.network)
    x, _ = batch_of(Program(6, (3,)), 0)
    with torch.no_grad():
        soft = teacher(x)
    aim = {"one": soft["one"], "b": soft["two"][:, 0:2], "c": soft["two"][:, 1:3]}
    outputs = ground.network(x + 0.1)
    ground.criterion(outputs, aim).total.backward()
    ground.optimizer.step()
    ground.note(outputs, aim, 1.0)
    ground.check()


def a_zero_for_every_parameter(ground: Ground) -> None:
    """As code under DDP adds it, so that no parameter is without a gradient."""
    outputs, breakdown, targets = ground.call()
    (breakdown.total + 0.0 * sum(each.sum() for each in ground.network.parameters())).backward()
    ground.note(outputs, targets, 1.0)
    ground.check()


def for_some_parameters_alone(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    breakdown.total.backward(inputs=list(ground.network.parameters()))
    ground.note(outputs, targets, 1.0)
    ground.check()


def in_another_thread(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    thread = threading.Thread(target=breakdown.total.backward)
    thread.start()
    thread.join()
    ground.optimizer.step()
    ground.note(outputs, targets, 1.0)
    ground.check()


def after_everything_else_is_gone(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    ground.note(outputs, targets, 1.0)
    total = breakdown.total
    del breakdown, outputs
    gc.collect()
    total.backward()
    ground.check()


def with_anomaly_detection(ground: Ground) -> None:
    with torch.autograd.set_detect_anomaly(True):
        outputs, breakdown, targets = ground.call()
        breakdown.total.backward()
    ground.note(outputs, targets, 1.0)
    ground.check()


def with_tensors_kept_elsewhere(ground: Ground) -> None:
    with torch.autograd.graph.save_on_cpu():
        outputs, breakdown, targets = ground.call()
        breakdown.total.backward()
    ground.note(outputs, targets, 1.0)
    ground.check()


def with_a_frozen_head(ground: Ground) -> None:
    ground.network.one.requires_grad_(False)
    ground.network.trunk.requires_grad_(False)
    x, targets = batch_of(Program(4, (3,)), 0)
    outputs = ground.network(x)
    total = ground.criterion(outputs, targets).total
    total.backward()
    ground.note(outputs, targets, 1.0)
    books = ground.ledger.read()
    assert books["a"].weighted == pytest.approx(books["a"].value)
    assert books["a"].grad_norm == 0
    assert books["b"].grad_norm > 0
    assert books.total == pytest.approx(total.item(), rel=1e-9)
    assert books.balanced


def by_views_of_the_total(ground: Ground) -> None:
    outputs, breakdown, targets = ground.call()
    breakdown.total.view(1).expand(3).sum().backward()
    ground.note(outputs, targets, 3.0)
    ground.check()


def times_a_learned_temperature(ground: Ground) -> None:
    temperature = nn.Parameter(torch.tensor(0.7, dtype=WIDE))
    outputs, breakdown, targets = ground.call()
    (breakdown.total * temperature).backward()
    ground.note(outputs, targets, temperature.item())
    ground.check()


def a_pass_that_failed(ground: Ground) -> None:
    """A hook raises in the first pass; the loop goes on with the next batch."""
    x, targets = batch_of(Program(4, (3,)), 0)
    outputs = ground.network(x)

    def fail(_: Tensor) -> None:
        raise RuntimeError("out of memory")

    outputs["two"].register_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        ground.criterion(outputs, targets).total.backward()
    ground.optimizer.zero_grad()
    ground.ledger.step()
    outputs, breakdown, targets = ground.call()
    ground.end(outputs, breakdown, targets)


def read_between_forward_and_backward(ground: Ground) -> None:
    for _ in range(2):
        outputs, breakdown, targets = ground.call()
        if len(ground.ledger.history()):
            ground.ledger.read()
        breakdown.total.backward()
        ground.ledger.read()
        ground.optimizer.step()
        ground.note(outputs, targets, 1.0)
        ground.check()


def a_look_with_a_graph(ground: Ground) -> None:
    """A Hessian-vector product between forward and backward."""
    outputs, breakdown, targets = ground.call()
    weight = ground.network.trunk.weight
    (slope,) = torch.autograd.grad(breakdown.total, weight, create_graph=True)
    torch.autograd.grad(slope.square().sum(), weight, retain_graph=True)
    ground.end(outputs, breakdown, targets)


def an_inner_step_with_a_graph(ground: Ground) -> None:
    """As MAML: the outer loss is that of weights that an inner step has moved, and its pass goes through that step."""
    x, targets = batch_of(Program(4, (3,)), 0)
    weights = dict(ground.network.named_parameters())
    inner = ground.criterion(ground.network(x), targets).total
    slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
    fast = {name: each - 0.1 * slope for (name, each), slope in zip(weights.items(), slopes, strict=True)}
    ground.ledger.step()  # the inner step is one of its own
    outputs = torch.func.functional_call(ground.network, fast, x)
    outer = ground.criterion(outputs, targets).total
    outer.backward()
    ground.optimizer.step()
    books = ground.ledger.read()
    assert books.total == pytest.approx(outer.item(), rel=1e-6) or not books.balanced


def with_mixed_precision(ground: Ground) -> None:
    network, criterion = Heads(7).float(), hw.Criterion(terms(WEIGHTS))
    x, targets = batch_of(Program(4, (3,)), 0)
    targets = {name: each.float() for name, each in targets.items()}
    with hw.Ledger(criterion) as ledger:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = network(x.float())
            total = criterion(outputs, targets).total
        total.backward()
        books = ledger.read()
    assert outputs["one"].dtype == torch.bfloat16
    assert books.balanced
    assert books.total == pytest.approx(total.item(), rel=1e-6)


def a_critic_in_turn(ground: Ground) -> None:
    """A GAN: the critic learns on detached pictures, the generator through the critic, with a ledger each."""
    torch.manual_seed(0)
    maker, critic = nn.Linear(3, 4, dtype=WIDE), nn.Linear(4, 1, dtype=WIDE)
    judge = hw.Criterion([hw.Term(name, losses.squared_error, output=name, target=name) for name in ("real", "fake")])
    fool = hw.Criterion([hw.Term("adversarial", losses.squared_error, output="fake", target="fake", weight=0.1)])
    makers, critics = (torch.optim.SGD(each.parameters(), lr=0.1) for each in (maker, critic))
    one, zero = torch.ones(5, 1, dtype=WIDE), torch.zeros(5, 1, dtype=WIDE)
    with hw.Ledger(judge, optimizer=critics) as of_critic, hw.Ledger(fool, optimizer=makers) as of_maker:
        for _ in range(3):
            fake, real = maker(torch.randn(5, 3, dtype=WIDE)), torch.randn(5, 4, dtype=WIDE)
            critics.zero_grad()
            judged = {"real": critic(real), "fake": critic(fake.detach())}
            judge(judged, {"real": one, "fake": zero}).total.backward()
            critics.step()
            makers.zero_grad()
            fooled = critic(fake)
            fool({"fake": fooled}, {"fake": one}).total.backward()
            makers.step()
        books, theirs = of_critic.history(), of_maker.history()
    assert [each.step for each in books] == [each.step for each in theirs] == [0, 1, 2]
    assert all(each.balanced for each in (*books, *theirs))
    assert books[-1]["fake"].grad_norm == pytest.approx((2 * judged["fake"] / 5).norm().item(), rel=1e-9)
    assert theirs[-1]["adversarial"].grad_norm == pytest.approx((0.2 * (fooled - 1) / 5).norm().item(), rel=1e-9)


def a_critic_with_a_gradient_penalty(ground: Ground) -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(4, 8, dtype=WIDE), nn.Tanh(), nn.Linear(8, 1, dtype=WIDE))
    judge = hw.Criterion([hw.Term(name, losses.squared_error, output=name, target=name) for name in ("real", "fake")])
    real, fake = torch.randn(5, 4, dtype=WIDE), torch.randn(5, 4, dtype=WIDE)
    with hw.Ledger(judge) as ledger:
        judged = {"real": critic(real), "fake": critic(fake)}
        total = judge(judged, {"real": torch.ones(5, 1, dtype=WIDE), "fake": torch.zeros(5, 1, dtype=WIDE)}).total
        between = (real + fake).div(2).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = 10 * (slope.norm(dim=1) - 1).square().mean()
        (total + penalty).backward()
        books = ledger.read()
    assert books.unbooked.value == pytest.approx(penalty.item(), rel=1e-6)
    assert books.unbooked.grad_norm <= 1e-9  # at no output: it trains the critic by another way
    assert not books.balanced
    assert books["real"].grad_norm == pytest.approx((2 * (judged["real"] - 1) / 5).norm().item(), rel=1e-9)


def two_views_of_one_batch(ground: Ground) -> None:
    """Siamese: the network is called twice, and the outputs are joined."""
    x, targets = batch_of(Program(4, (4,)), 0)
    one, two = ground.network(x[:2]), ground.network(x[2:])
    outputs = {name: torch.cat([one[name], two[name]]) for name in one}
    ground.criterion(outputs, targets).total.backward()
    ground.note(outputs, targets, 1.0)
    ground.check()


def with_a_line_search(ground: Ground) -> None:
    optimizer = torch.optim.LBFGS(ground.network.parameters(), max_iter=4, line_search_fn="strong_wolfe")
    optimizer.register_step_post_hook(lambda *_: ground.ledger.step())

    def closure() -> Tensor:
        optimizer.zero_grad()
        outputs, breakdown, targets = ground.call()
        breakdown.total.backward()
        ground.note(outputs, targets, 1.0)
        found: Tensor = breakdown.total
        return found

    for _ in range(2):
        optimizer.step(closure)
        ground.check()


def a_call_of_before_the_ledger(ground: Ground) -> None:
    ground.ledger.close()
    outputs, breakdown, targets = ground.call()
    with hw.Ledger(ground.criterion) as ledger:
        breakdown.total.backward()
        with pytest.raises(RuntimeError, match="empty"):
            ledger.read()
        outputs, breakdown, targets = ground.call()
        breakdown.total.backward()
        ground.note(outputs, targets, 1.0)
        ground.check(books=ledger.read())


def a_copy_that_trains_beside(ground: Ground) -> None:
    other, network = copy.deepcopy(ground.criterion), Heads(11)
    outputs, breakdown, targets = ground.call()
    aside = other(network(batch_of(Program(9, (3,)), 0)[0]), targets).total
    (breakdown.total + aside).backward()
    ground.note(outputs, targets, 1.0)
    books = ground.check(balanced=False)
    assert books.unbooked.value == pytest.approx(aside.item(), rel=1e-6)
    assert books.unbooked.grad_norm <= 1e-9


LOOPS: list[Callable[[Ground], None]] = [
    each
    for name, each in list(globals().items())
    if callable(each) and getattr(each, "__module__", "") == __name__ and not name.startswith(("test_", "declared"))
]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_loop_in_a_manner_of_its_own(loop):
    tried(loop)
