"""Weighted cross entropy: shared properties, equality with torch, and the defects N1 to N4 of the original."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise import losses, normalizers
from tests import asserts
from tests.asserts import LossCase
from tests.reference.losses import _class_loss

WEIGHT = torch.tensor([[0.5, 2.0, 0.0, 1.0], [3.0, 1.5, -1.0, 0.25], [1.0, 1.0, 7.0, 2.0]], dtype=torch.float64)


def draw(generator, batch):
    output = 2 * torch.randn(batch, 4, 3, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (batch, 3, 4), generator=generator)
    return output, target, torch.rand(batch, 3, 4, generator=generator) < 0.7


def weighed(output, target, mask=None, **options):
    return losses.weighted_cross_entropy(output, target, WEIGHT.expand(target.shape), mask, **options)


def divisor(target, mask=None, **options):
    return normalizers.weight_sum(target, WEIGHT.abs().expand(target.shape), mask, **options)


def slow(output, target, mask=None, *, ignore_index=None):
    total = 0.0
    for n, y, x in np.ndindex(target.shape):
        if (mask is None or mask[n, y, x]) and target[n, y, x] != ignore_index:
            total += float(WEIGHT[y, x]) * _class_loss(output[n, :, y, x].tolist(), int(target[n, y, x]))
    return total


CASES = [
    LossCase("weighted", weighed, divisor, slow, draw),
    LossCase(
        "weighted_ignoring",
        partial(weighed, ignore_index=2),
        partial(divisor, ignore_index=2),
        partial(slow, ignore_index=2),
        draw,
    ),
]
PROPERTIES = [
    asserts.assert_matches_reference,
    asserts.assert_adds_over_batches,
    asserts.assert_ignores_order_of_batch,
    asserts.assert_second_order_is_hidden,
    asserts.assert_empty_mask_is_zero,
    asserts.assert_mask_of_any_dtype,
    asserts.assert_gradients,
    asserts.assert_no_gradient_without_need,
    asserts.assert_finite_at_extremes,
    asserts.assert_no_sync,
    asserts.assert_compiles,
]


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda each: each.__name__)
def test_properties(holds, each):
    for seed in (0,) if holds is asserts.assert_gradients else range(4):
        holds(each, seed)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_mask_hides(poison):
    asserts.assert_mask_hides(CASES[0], 0, poison)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_an_element_of_weight_0_does_not_count(poison):
    output, target, _ = draw(torch.Generator().manual_seed(0), 2)
    output[:, :, 0, 2] = poison
    value, gradient = asserts.value_and_gradient(weighed, output, target)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_a_weight_outside_the_mask_is_hidden():
    output, target, mask = draw(torch.Generator().manual_seed(0), 2)
    weight = torch.where(mask, 2.0, torch.nan).float()
    assert losses.weighted_cross_entropy(output, target, weight, mask).isfinite()
    assert normalizers.weight_sum(target, weight, mask) == 2 * mask.sum()


SHAPES = st.sampled_from([(), (3,), (2, 3), (2, 2, 3)])


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**31),
    num_classes=st.integers(2, 6),
    spatial=SHAPES,
    channel=st.booleans(),
    ignore_index=st.sampled_from([None, -100, 1]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equals_torch(seed, num_classes, spatial, channel, ignore_index, dtype):
    generator = torch.Generator().manual_seed(seed)
    output = 3 * torch.randn(5, num_classes, *spatial, generator=generator, dtype=dtype)
    target = torch.randint(0, num_classes, (5, *spatial), generator=generator)
    weight = 3 * torch.rand(5, *spatial, generator=generator, dtype=dtype)
    given = (target.unsqueeze(1), weight.unsqueeze(1)) if channel else (target, weight)
    found = asserts.value_and_gradient(
        partial(losses.weighted_cross_entropy, ignore_index=ignore_index), output, *given
    )
    # torch has no ignore_index of None; a label that does not occur ignores nothing.
    other = -100 if ignore_index is None else ignore_index
    wanted = asserts.value_and_gradient(
        lambda x, t, w: (F.cross_entropy(x, t, ignore_index=other, reduction="none") * w).sum(), output, target, weight
    )
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_weight_sum_is_torchs_weighted_mean():
    output, target, _ = draw(torch.Generator().manual_seed(1), 3)
    of_class = torch.tensor([0.2, 1.0, 3.0, 0.7], dtype=torch.float64)
    weight = of_class[target]
    found = losses.weighted_cross_entropy(output, target, weight) / normalizers.weight_sum(target, weight)
    torch.testing.assert_close(found, F.cross_entropy(output, target, of_class), rtol=1e-12, atol=0)


def test_bool_labels():
    output, target, _ = draw(torch.Generator().manual_seed(2), 2)
    found = weighed(output[:, :2], target > 1)
    torch.testing.assert_close(found, weighed(output[:, :2], (target > 1).long()), rtol=1e-12, atol=0)


def circulating(output, label, weight, select):
    """The element-wise NLL as it goes round, its selection aside: mean of -w log p[label]."""
    return (-weight * select(torch.softmax(output, 1), label).log()).mean(0)


def by_one_hot(probability, label):
    hot = torch.zeros(probability.shape, dtype=torch.bool)
    hot[torch.arange(len(hot)), label] = True
    return probability.masked_select(hot)


def flat(seed=0, num=8):
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(num, 3, generator=generator, dtype=torch.float64)
    return output, torch.randint(0, 3, (num,), generator=generator), torch.rand(num, generator=generator).double()


def test_n1_bytes_select_nothing_any_more():
    output, label, weight = flat()

    def by_bytes(probability, label):
        return probability.masked_select(F.one_hot(label, 3).byte())

    with pytest.raises(RuntimeError, match="BoolTensor"):
        circulating(output, label, weight, by_bytes)
    for num_classes in (2, 3, 7):
        logits = torch.cat((output, output, output), 1)[:, :num_classes].requires_grad_()
        losses.weighted_cross_entropy(logits, label.clamp(max=1), weight).backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_n2_weights_of_a_column_are_one_an_element():
    output, label, weight = flat()
    assert circulating(output, label, weight[:, None], by_one_hot).shape == (8,)
    wanted = circulating(output, label, weight, by_one_hot)
    found = losses.weighted_cross_entropy(output, label, weight[:, None]) / normalizers.count(label)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_n3_labels_of_a_column_are_one_an_element():
    output, label, weight = flat()
    hot = torch.zeros(8, 3, dtype=torch.bool)
    hot[torch.arange(8), label[:, None]] = True  # several classes a row
    assert output.masked_select(hot).numel() > 8
    wanted = losses.weighted_cross_entropy(output, label, weight)
    for column in (label[:, None], label):
        found = losses.weighted_cross_entropy(output, column, weight[:, None], torch.ones(8, 1))
        assert torch.equal(found, wanted)


def test_n4_what_divides_is_chosen():
    output, label, weight = flat()
    total = losses.weighted_cross_entropy(output, label, weight)
    torch.testing.assert_close(circulating(output, label, weight, by_one_hot), total / normalizers.count(label))
    assert normalizers.weight_sum(label, weight) == weight.sum() != normalizers.count(label)
    assert normalizers.weight_sum(ignore_index=1)(label, weight) == weight[label != 1].sum()
    assert normalizers.weight_sum(label[:, None], weight, label > 0, ignore_index=1) == weight[label == 2].sum()


LOGITS, LABELS, ONES = torch.zeros(4, 3, 2), torch.zeros(4, 2, dtype=torch.long), torch.ones(4, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.weighted_cross_entropy(LOGITS, LABELS, ONES[:, :1]), r"weight of shape \(4, 2\).*\(4, 1\)"),
        (lambda: losses.weighted_cross_entropy(LOGITS, LABELS[0], ONES), r"label of shape \(4, 2\).*found \(2,\)"),
        (lambda: losses.weighted_cross_entropy(LOGITS, LABELS, ONES, ONES.T), r"mask of shape \(4, 2\).*\(2, 4\)"),
        (lambda: losses.weighted_cross_entropy(LOGITS, ONES, ONES), "integer or bool, found torch.float32"),
        (lambda: losses.weighted_cross_entropy(LOGITS, LABELS, ONES.clone().requires_grad_()), "weight.detach"),
        (lambda: normalizers.weight_sum(LABELS, ONES[:1]), r"one weight .* a label.*weights \(1, 2\)"),
        (lambda: normalizers.weight_sum(LABELS, ONES, ONES[0]), r"mask \(2,\)"),
    ],
)
def test_message(call, words):
    with pytest.raises(ValueError, match=words):
        call()
