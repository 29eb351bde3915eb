"""Labels of every integer dtype mean the same, also where it cannot hold -1, -100 or the number of classes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import headwise as hw
from headwise import losses, normalizers

C = 200
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)
LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": losses.cross_entropy,
    "ignore 255": partial(losses.cross_entropy, ignore_index=255),
    "ignore -100": partial(losses.cross_entropy, ignore_index=-100),
    "hard negatives": losses.hard_negative_cross_entropy,
    "tokens": losses.token_cross_entropy,
    "sigmoid_focal": losses.sigmoid_focal,
    "shifted_focal": losses.shifted_focal,
    "torch": torch.nn.CrossEntropyLoss(),
}
LAST = ("tokens", "sigmoid_focal", "shifted_focal")


def value_and_gradient(name, labels, mask):
    torch.manual_seed(0)
    logits = torch.randn(2, C, 6, dtype=torch.float64)
    output = (logits.movedim(1, 2) if name in LAST else logits).detach().requires_grad_()
    criterion = hw.Criterion([hw.Term("class", LOSSES[name], output="y", target="t", mask="m" if mask else None)])
    targets = {"t": labels} | ({"m": torch.arange(12).view(2, 6) % 3 > 0} if mask else {})
    total = criterion({"y": output}, targets).total
    total.backward()
    return total, output.grad


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_a_narrow_label(name, dtype, mask):
    # -100 and -1 as uint8 are 156 and 255.
    label = torch.tensor([[156, 0, 7, 199, 128, 1], [3, 156, 127, 99, 0, 100]]).clamp(max=torch.iinfo(dtype).max)
    for found, wanted in zip(
        value_and_gradient(name, label.to(dtype), mask), value_and_gradient(name, label, mask), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("count", [normalizers.labeled, partial(normalizers.weight_sum, weight=torch.ones(2))])
def test_a_count_of_narrow_labels(count):
    label = torch.tensor([156, 3])
    for dtype, ignored, wanted in ((torch.uint8, -100, 2), (torch.uint8, 156, 1), (torch.int8, 156, 2)):
        assert count(label.to(dtype), ignore_index=ignored) == wanted
