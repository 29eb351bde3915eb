"""Gradients that the junction has written straight into its sum."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import headwise as hw
from headwise import losses
from headwise.declaration import declared


def slice_terms(loss=losses.smooth_l1):
    """Slices with one reader, two and three, and one channel without its dimension."""
    readers = {"x[:, 0:2]": 2, "x[:, 2:4]": 3, "x[:, 4]": 2, "x[:, 5:6]": 1}
    return [
        hw.Term(f"{path} {number}", partial(loss, beta=0.5 + number), output=path, target=path.replace("x", "t"))
        for path, num_readers in readers.items()
        for number in range(num_readers)
    ]


def values_and_targets(memory_format=torch.contiguous_format, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 40, 50, generator=draw).to(dtype).contiguous(memory_format=memory_format)
    return x.requires_grad_(), {"t": torch.randn(3, 6, 40, 50, generator=draw)}


def custom(loss):
    """The same loss as a function that is not the library's: its gradient arrives as a tensor."""
    return lambda *args, **options: loss(*args, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dropped", [(), (0, 1), (2, 3, 4)])
def test_gradients_written_in_place_are_those_of_tensors_to_the_bit(dropped, memory_format, dtype, monkeypatch):
    monkeypatch.setattr("headwise.losses.parts.fused._PIECE", 1000)
    x, targets = values_and_targets(memory_format, dtype)
    unread = [f"{name}[:, {dropped[0]}:{dropped[0] + 2}]" for name in "xt"] if dropped else []
    found = []
    for loss in (losses.smooth_l1, custom(losses.smooth_l1)):
        terms = [term for number, term in enumerate(slice_terms(loss)) if number not in dropped]
        criterion = hw.Criterion(terms, unread=unread)
        found += torch.autograd.grad(criterion({"x": x}, targets).total, x)
    assert torch.equal(found[0], found[1])
    assert found[0].norm() > 0


def test_every_backward_pass_has_memory_of_its_own():
    x, targets = values_and_targets()
    breakdown = hw.Criterion(slice_terms())({"x": x}, targets)
    first, second = (torch.autograd.grad(breakdown.total, x, retain_graph=True)[0] for _ in range(2))
    kept = first.clone()
    second.zero_()
    rows = [torch.autograd.grad(entry.weighted, x, retain_graph=True)[0] for entry in breakdown.values()]
    assert torch.equal(first, kept)
    torch.testing.assert_close(torch.stack(rows).sum(0), first)


def test_a_failed_backward_pass_leaves_nothing_behind():
    x, targets = values_and_targets()
    failing: list[int] = []

    def breaking(number):
        def fail(grad):
            if number in failing:
                raise RuntimeError("halfway")
            return grad

        def loss(output, target):
            found = losses.smooth_l1(output, target)
            found.register_hook(fail)
            return found

        return declared(closed_form=True)(loss)

    terms = [dataclasses.replace(each, loss=breaking(number)) for number, each in enumerate(slice_terms())]
    total = hw.Criterion(terms)({"x": x}, targets).total
    (expected,) = torch.autograd.grad(total, x, retain_graph=True)
    for number in range(len(terms)):
        failing[:] = [number]
        with pytest.raises(RuntimeError, match="halfway"):
            torch.autograd.grad(total, x, retain_graph=True)
    failing.clear()
    assert torch.equal(torch.autograd.grad(total, x, retain_graph=True)[0], expected)


def test_a_loss_of_the_users_may_differentiate_what_it_reads():
    seen = []

    def loss(output, target):
        value = losses.smooth_l1(output, target)
        seen.append(torch.autograd.grad(value, output, retain_graph=True)[0])
        return value

    x, targets = values_and_targets()
    terms = [hw.Term(str(i), each, 1.0, output="x", target="t") for i, each in enumerate([loss, losses.smooth_l1])]
    (gradient,) = torch.autograd.grad(hw.Criterion(terms)({"x": x}, targets).total, x)
    torch.testing.assert_close(gradient, 2 * seen[0])


def test_no_gradient_of_a_term_is_allocated():
    x, targets = values_and_targets()
    total = hw.Criterion(slice_terms())({"x": x}, targets).total
    sizes = []

    class Allocations(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func.overloadpacket.__name__ in ("empty", "cat", "empty_like", "zeros"):
                sizes.append(result.numel())
            return result

    with Allocations():
        torch.autograd.grad(total, x)
    assert sizes.count(x.numel()) == 1
    assert max(sizes) == x.numel()
    assert sum(sizes) <= x.numel() + len(sizes)


def test_batched_gradients():
    x, targets = values_and_targets(dtype=torch.float64)
    total = hw.Criterion(slice_terms())({"x": x}, targets).total
    scales = torch.tensor([1.0, -2.0])
    (batched,) = torch.autograd.grad(total, x, scales.to(total), retain_graph=True, is_grads_batched=True)
    (plain,) = torch.autograd.grad(total, x)
    torch.testing.assert_close(batched, torch.stack([plain, -2 * plain]))
