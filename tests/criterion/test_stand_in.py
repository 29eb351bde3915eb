"""Losses of the user's that count, learn or draw: they are called as often as the loop calls them, and no more."""

from __future__ import annotations

import collections
import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import headwise as hw
from headwise.criterion.sums.stand_in import stand_in

STEPS = 3
QUEUE: list[float] = []
CALLS = 0


def squares(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


class Statistics(nn.Module):
    """Buffers and parameters, and what a forward pass leaves beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.scale, self.seen = nn.BatchNorm1d(2), nn.Parameter(torch.ones(2)), [0]

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.seen[0] += 1
        return squares(self.scale * self.norm(output), target)

    def left(self) -> Any:
        return self.seen, [each.tolist() for each in self.buffers()]


class Average:
    def __init__(self) -> None:
        self.now, self.last = 0.0, collections.deque([1.0], maxlen=4)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            self.now = 0.9 * self.now + 0.1 * float(squares(output, target))
        self.last.append(self.now)
        return squares(output, target) + self.now

    def method(self, output: Tensor, target: Tensor) -> Tensor:
        return self(output, target)

    def left(self) -> Any:
        return self.now, list(self.last)


def of_module() -> Any:
    torch.manual_seed(0)
    loss = Statistics()
    return loss, loss.left


def of_object() -> Any:
    loss = Average()
    return loss, loss.left


def of_method() -> Any:
    loss = Average()
    return loss.method, loss.left


def of_partial() -> Any:
    def weighed(output: Tensor, target: Tensor, inner: Any) -> Tensor:
        return inner(output, target)  # type: ignore[no-any-return]

    loss = Average()
    return partial(weighed, inner=loss), loss.left


def of_closure() -> Any:
    calls, seen = 0, torch.zeros(2)

    def inner(output: Tensor) -> None:
        nonlocal calls
        calls += 1
        seen.add_(output.detach().sum(0))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        inner(output)
        return squares(output, target)

    return loss, lambda: (calls, seen.tolist())


def of_globals() -> Any:
    global CALLS
    CALLS = 0
    QUEUE.clear()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        global CALLS
        CALLS += 1
        QUEUE.append(float(output.detach().sum()))
        return squares(output, target)

    return loss, lambda: (CALLS, list(QUEUE))


def of_draws() -> Any:
    draws = torch.Generator().manual_seed(1)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        factor = random.random() * np.random.rand() + float(torch.rand((), generator=draws))  # noqa: NPY002
        return factor * squares(output, target)

    return loss, lambda: (random.random(), np.random.rand(), torch.rand(3, generator=draws).tolist())  # noqa: NPY002


def steps(call: Any) -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    output = torch.linspace(-1, 1, 8).view(4, 2).requires_grad_()
    for step in range(STEPS):
        call(output * step, torch.ones(4, 2))


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize(
    "make",
    [of_module, of_object, of_method, of_partial, of_closure, of_globals, of_draws],
    ids=lambda each: each.__name__,
)
def test_a_loss_that_holds_something_is_called_once_a_call(make, samples):
    loss, left = make()
    steps(loss)
    wanted = left()
    loss, left = make()
    criterion = hw.Criterion([hw.Term("a", loss, output="y", target="t")])
    with hw.Ledger(criterion, samples=samples, values_every=1):
        steps(lambda output, target: criterion({"y": output}, {"t": target}).total.backward())
    assert left() == wanted


def test_a_loss_with_buffers_that_averages_is_told():
    class Mean(Statistics):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return super().forward(output, target) / output.numel()

    criterion = hw.Criterion([hw.Term("a", Mean(), output="y", target="t")])
    with pytest.warns(UserWarning, match="its loss averages"):
        criterion({"y": torch.ones(4, 2).cumsum(0)}, {"t": torch.ones(4, 2)})


def test_a_stand_in_shares_parameters_and_nothing_that_is_written():
    loss = Statistics()
    other = stand_in(loss)
    assert other.scale is loss.scale
    assert other.norm.running_mean is not loss.norm.running_mean
    assert other.seen is not loss.seen
    assert stand_in(hw.losses.squared_error) is hw.losses.squared_error


class Holds:
    def __init__(self, what: Any) -> None:
        self.what = what

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return squares(output, target)


CLOSED: list[int] = []


class Closes:
    def __del__(self) -> None:
        CLOSED.append(id(self))


def test_what_closes_something_at_its_end_is_not_copied():
    held = Closes()
    criterion = hw.Criterion([hw.Term("a", Holds(held), output="y", target="t")])
    criterion({"y": torch.ones(2, 2)}, {"t": torch.zeros(2, 2)})
    assert not CLOSED


def test_what_has_no_stand_in_is_called_by_the_loop_alone(tmp_path):
    with (tmp_path / "file").open("w") as file:
        graph, many = torch.ones(1, requires_grad=True) * 2, [[number] for number in range(20_000)]
        cannot: list[Any] = [file, graph, torch.empty(1 << 25), many]
        for held in cannot:
            with pytest.raises((TypeError, ValueError)):
                stand_in(Holds(held))
            criterion = hw.Criterion([hw.Term("a", Holds(held), output="y", target="t")])
            with hw.Ledger(criterion, samples=1) as ledger:
                output = torch.ones(2, 2, requires_grad=True)
                criterion({"y": output}, {"t": torch.zeros(2, 2)}).total.backward()
                assert ledger.read()["a"].value == 1.0


def test_a_compiled_loss_of_ones_own_is_compiled_for_the_loops_sizes_alone():
    sizes = []

    def backend(graph: Any, inputs: Any) -> Any:
        sizes.append(tuple(inputs[0].shape))
        return graph

    loss = torch.compile(lambda output, target: (output - target).square().sum(), backend=backend)
    criterion = hw.Criterion([hw.Term("a", loss, output="y", target="t")])
    assert criterion({"y": torch.ones(4, 2)}, {"t": torch.zeros(4, 2)}).total == 1.0
    assert sizes == [(4, 2)]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo looks at it
def test_a_step_that_is_compiled_as_a_whole():
    """A ledger's criterion runs between two graphs, and so does what is called out of turn."""
    loss, left = of_object()
    criterion = hw.Criterion([hw.Term("a", loss, output="y", target="t")])
    with hw.Ledger(criterion, samples=2, values_every=1) as ledger:
        whole = torch.compile(lambda y: criterion({"y": y * 2}, {"t": torch.zeros(4, 2)}).total, backend="eager")
        for _ in range(STEPS):
            whole(torch.ones(4, 2, requires_grad=True)).backward()
        assert ledger.read().balanced
        assert len(left()[1]) == 1 + STEPS
