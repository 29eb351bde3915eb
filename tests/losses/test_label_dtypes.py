"""Labels of every integer dtype mean the same, also where it cannot hold -1, -100 or the number of classes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import headwise as hw
from headwise import losses, normalizers

C = 200
# As 16-bit label maps are read; torch cannot order these.
WIDE = (torch.uint16, torch.uint32, torch.uint64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, *WIDE)
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
    label = torch.tensor([[156, 0, 7, 199, 128, 1], [3, 156, 127, 99, 0, 100]]).clamp(
        max=min(torch.iinfo(dtype).max, C - 1)
    )
    for found, wanted in zip(
        value_and_gradient(name, label.to(dtype), mask), value_and_gradient(name, label, mask), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("count", [normalizers.labeled, partial(normalizers.weight_sum, weight=torch.ones(2))])
def test_a_count_of_narrow_labels(count):
    label = torch.tensor([156, 3])
    for dtype, ignored, wanted in ((torch.uint8, -100, 2), (torch.uint8, 156, 1), (torch.int8, 156, 2)):
        assert count(label.to(dtype), ignore_index=ignored) == wanted


ROWS, IMAGES = torch.randn(2, 5, 3), torch.randn(2, 2, 4, 4)
ONES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any]] = {
    "mask": lambda pixels, _, __: losses.cross_entropy(IMAGES, torch.ones(2, 4, 4).long(), pixels),
    "mask as target": lambda pixels, _, __: losses.mask_cross_entropy(IMAGES, pixels),
    "labels 0 and 1": lambda _, __, whole: losses.binary_cross_entropy(IMAGES, whole),
    "labels and a mask": lambda pixels, _, whole: losses.dice(IMAGES, whole, pixels).value,
    "values": lambda _, __, whole: losses.relative_smooth_l1(IMAGES, whole),
    "heat maps": lambda pixels, _, whole: losses.gaussian_focal(IMAGES, whole, pixels),
    "published heat maps": lambda _, __, whole: losses.published_gaussian_focal(IMAGES, whole),
    "objects": lambda _, slots, __: losses.push(IMAGES[:, :1], IMAGES[:, 1:], slots, slots, slots),
    "boxes": lambda _, slots, __: losses.multibox_cross_entropy(ROWS, slots),
    "weights": lambda pixels, _, __: losses.weighted_cross_entropy(IMAGES, pixels, pixels, pixels),
    "count": lambda pixels, _, __: normalizers.count(pixels, pixels),
    "positive": lambda _, __, whole: normalizers.positive(whole),
    "peaks": lambda _, __, whole: normalizers.peaks(whole),
    "foreground": lambda _, slots, __: normalizers.foreground(slots),
    "mined": lambda pixels, _, __: normalizers.mined(pixels),
}


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("name", ONES)
def test_ones_of_wide_unsigned_numbers(name, dtype):
    ones = [torch.arange(math.prod(shape)).view(shape) % 3 // 2 for shape in ((2, 4, 4), (2, 5), (2, 2, 4, 4))]
    assert torch.equal(ONES[name](*(each.to(dtype) for each in ones)), ONES[name](*ones))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_wide_unsigned_labels_that_are_no_probabilities(dtype):
    with pytest.raises(ValueError, match="found values from 0 to 255"):
        losses.binary_cross_entropy(torch.zeros(2), torch.tensor([0, 255]).to(dtype))
