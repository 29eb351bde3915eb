"""The one place where a backward pass is seen: what observers are told, and that training never notices."""

from __future__ import annotations

import gc
import threading
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headwise.attribution.passes import watch_backward


@pytest.fixture(autouse=True)
def _nothing_stays_replaced():
    gc.collect()  # ledgers of other tests close when they go
    before = torch.autograd.backward
    yield
    assert torch.autograd.backward is before


class Log:
    def __init__(self) -> None:
        self.begun: list[tuple[Any, Any]] = []
        self.ended: list[bool] = []

    def __call__(self, roots: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...]) -> Any:
        self.begun.append((roots, gradients))
        return self.ended.append


def loss() -> Any:
    return nn.Linear(3, 1)(torch.ones(2, 3)).square().mean()


def test_an_observer_sees_the_very_number_and_when_the_pass_is_over():
    log, number = Log(), loss()
    with watch_backward(log):
        number.backward()
        assert log.begun[0][0][0] is number
        assert log.begun[0][1] == (None,)
        assert log.ended == [True]
        two, seed = nn.Linear(2, 2)(torch.ones(2)), torch.ones(2)
        torch.autograd.backward([loss(), two], [None, seed])
        assert [len(roots) for roots, _ in log.begun] == [1, 2]
        assert log.begun[1][1][1] is seed
        torch.autograd.grad(loss(), nn.Linear(1, 1).weight, allow_unused=True)
    loss().backward()
    assert len(log.begun) == 2


def test_scalers_call_the_same_function():
    log = Log()
    with watch_backward(log):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(loss()).backward()
    assert log.begun[0][0][0].grad_fn.name() == "MulBackward0"


def test_a_pass_that_raises_raises_the_same_error_and_is_over():
    log, number = Log(), loss()
    number.backward()
    with watch_backward(log), pytest.raises(RuntimeError, match="a second time"):
        number.backward()
    assert log.ended == [False]


@pytest.mark.parametrize("when", ["begin", "finish"])
def test_an_observer_that_fails_is_told_once_and_training_goes_on(when: str):
    def observer(roots: Any, gradients: Any) -> Any:
        if when == "begin":
            raise KeyError("mine")

        def finish(done: bool) -> None:
            raise KeyError("mine")

        return finish

    layer = nn.Linear(3, 1)
    with watch_backward(observer) as watch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            layer(torch.ones(3)).backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.eq(2).all()
    assert isinstance(watch.error, KeyError)
    assert len(caught) == 1
    assert "mine" in str(caught[0].message)


def test_passes_inside_of_a_pass_are_not_told():
    log, layer, x = Log(), nn.Linear(3, 3), torch.ones(2, 3, requires_grad=True)
    with watch_backward(log):
        checkpoint(layer, x, use_reentrant=True).sum().backward()
    assert len(log.begun) == len(log.ended) == 1
    assert layer.weight.grad is not None


def test_several_observers_and_threads():
    logs = [Log(), Log()]
    watches = [watch_backward(log) for log in logs]
    threads = [threading.Thread(target=lambda: loss().backward()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watches[0].close()
    watches[0].close()
    loss().backward()
    watches[1].close()
    assert [len(log.begun) for log in logs] == [4, 5]


def test_a_pass_that_is_captured_as_a_cuda_graph_is_not_told_and_that_is_said(monkeypatch):
    monkeypatch.setattr("headwise.attribution.passes.is_captured", lambda root: True)
    log = Log()
    with watch_backward(log):
        with pytest.warns(UserWarning, match="captured as a CUDA graph is not booked"):
            loss().backward()
        monkeypatch.undo()
        loss().backward()
    assert len(log.begun) == len(log.ended) == 1


def test_somebody_elses_replacement_stays_in_place():
    log, calls = Log(), []
    watch = watch_backward(log)
    ours = torch.autograd.backward

    def theirs(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return ours(*arguments, **named)

    torch.autograd.backward = theirs
    try:
        watch.close()
        assert torch.autograd.backward is theirs
        with watch_backward(log):
            loss().backward()
        assert len(log.begun) == len(calls) == 1
        loss().backward()
        assert len(log.begun) == 1
    finally:
        torch.autograd.backward = ours
        watch_backward(log).close()
