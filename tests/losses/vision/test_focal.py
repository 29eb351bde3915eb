"""Focal losses: shared properties, equality with torchvision, and the defects R2 to R4 of the original."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from headwise import losses, normalizers
from tests import asserts
from tests.asserts import LossCase


def draw(generator, batch):
    """Logits (N, C, A), for the shared properties look for channels in dimension 1."""
    target = torch.randint(-1, 4, (batch, 5), generator=generator)
    output = 2 * torch.randn(batch, 3, 5, generator=generator, dtype=torch.float64)
    return output, target, torch.rand(batch, 5, generator=generator) < 0.7


def slow(output, target, mask=None, *, element):
    total = 0.0
    for n, a in np.ndindex(target.shape):
        if target[n, a] >= 0 and (mask is None or mask[n, a]):
            for c in range(output.shape[1]):
                is_class = target[n, a] == c + 1
                margin = float(output[n, c, a]) if is_class else -float(output[n, c, a])
                total += (0.3 if is_class else 0.7) * element(margin)
    return total


def slow_focal(margin, gamma):
    right = 1 / (1 + math.exp(-margin))
    return -((1 - right) ** gamma) * math.log(right)


def slow_shifted(margin):
    return -math.log(1 / (1 + math.exp(-(3.0 * margin + 0.5)))) / 3.0


def last(loss, output, *rest, **options):
    return loss(output.movedim(1, -1), *rest, **options)


def case(name, loss, element, **options):
    return LossCase(
        name,
        partial(last, loss, alpha=0.3, **options),
        normalizers.positive,
        partial(slow, element=element),
        draw,
    )


CASES = [
    *(case(f"focal_{g}", losses.sigmoid_focal, partial(slow_focal, gamma=g), gamma=g) for g in (2.0, 0.0, 0.5, 3.7)),
    case("shifted", losses.shifted_focal, slow_shifted, gamma=3.0, beta=0.5),
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
    for seed in (0,) if holds is asserts.assert_gradients or holds is asserts.assert_compiles else range(4):
        holds(each, seed)


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_mask_hides(each, poison):
    asserts.assert_mask_hides(each, 0, poison)


def one_hot(target, num_classes, dtype):
    return F.one_hot(target.clamp(min=0), num_classes + 1)[..., 1:].to(dtype)


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
    alpha=st.floats(0, 1),
    gamma=st.sampled_from([0.0, 1.0, 1.5, 2.0, 5.0]),
)
def test_equals_torchvision(seed, scale, alpha, gamma):
    generator = torch.Generator().manual_seed(seed)
    output = scale * torch.randn(2, 7, 4, generator=generator)
    target = torch.randint(-1, 5, (2, 7), generator=generator)
    ours = partial(losses.sigmoid_focal, alpha=alpha, gamma=gamma)

    def theirs(logits, labels):
        each = sigmoid_focal_loss(logits, one_hot(labels, 4, logits.dtype), alpha=alpha, gamma=gamma)
        return (each * (labels >= 0).unsqueeze(-1)).sum()

    wanted = asserts.value_and_gradient(theirs, output.double(), target)
    torch.testing.assert_close(asserts.value_and_gradient(ours, output.double(), target), wanted, rtol=1e-6, atol=1e-12)
    # In float32 torchvision itself is off by 3e-6, for it subtracts probabilities from 1.
    single = tuple(each.double() for each in asserts.value_and_gradient(ours, output, target))
    torch.testing.assert_close(single, wanted, rtol=2e-6, atol=1e-7)


def authors_shifted(output, target):
    """The repository's formulation: log of a sigmoid, divided by the number of positives."""
    hot = one_hot(target, output.shape[-1], output.dtype)
    margin = output * (2 * hot - 1)
    weight = 0.25 * hot + 0.75 * (1 - hot)
    each = -weight * torch.sigmoid(2 * margin + 1).log() / 2
    return (each * (target > -1).unsqueeze(-1)).sum() / (target > 0).sum()


def test_shifted_is_the_authors_formulation():
    output, target, _ = draw(torch.Generator().manual_seed(3), 4)
    output = output.movedim(1, -1)
    found = losses.shifted_focal(output, target) / normalizers.positive(target)
    torch.testing.assert_close(found, authors_shifted(output, target), rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", [losses.sigmoid_focal, losses.shifted_focal])
def test_r2_no_positive_anchor_is_finite(loss):
    output = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    background, ignored = torch.zeros(2, 3, dtype=torch.long), torch.full((2, 3), -1)
    assert authors_shifted(output, background).isinf()
    assert authors_shifted(output, ignored).isnan()
    assert loss(output, background) > 0
    value, gradient = asserts.value_and_gradient(loss, output, ignored)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("wrong", [-45.0, -100.0])
def test_r3_wrong_logits_of_any_size(wrong):
    output, target = torch.tensor([[[wrong, -wrong]]]), torch.tensor([[1]])
    value, gradient = asserts.value_and_gradient(authors_shifted, output, target)
    assert value.isinf()
    assert gradient.isnan().any()
    value, gradient = asserts.value_and_gradient(losses.shifted_focal, output, target)
    assert value.item() == pytest.approx(-(2 * wrong + 1) / 2, rel=1e-6)  # 0.25 + 0.75 of softplus(-(2 x + 1)) / 2
    assert gradient.flatten().tolist() == pytest.approx([-0.25, 0.75])


def test_r4_the_plain_form_has_a_gradient():
    output, target = torch.randn(2, 3, 4, requires_grad=True), torch.randint(0, 5, (2, 3))
    hot = one_hot(target, 4, output.dtype)
    probability = output.sigmoid()
    weight = (0.25 * hot + 0.75 * (1 - hot)) * (probability * (1 - hot) + (1 - probability) * hot).pow(2)
    with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'weight'"):
        F.binary_cross_entropy_with_logits(output, hot, weight, reduction="sum").backward()
    losses.sigmoid_focal(output, target).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_a_label_above_the_classes_shows():
    output = torch.zeros(1, 2, 3)
    assert losses.sigmoid_focal(output, torch.tensor([[4, 0]])).isnan()
    assert losses.shifted_focal(output, torch.tensor([[4, 0]])).isnan()
    assert losses.sigmoid_focal(output, torch.tensor([[4, 0]]), torch.tensor([[0, 1]])).isfinite()


def test_no_anchor_and_no_class():
    assert losses.sigmoid_focal(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.long)) == 0
    assert losses.shifted_focal(torch.zeros(0, 5, 3), torch.zeros(0, 5, dtype=torch.long)) == 0


LOGITS, LABELS = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.sigmoid_focal(LOGITS, LABELS.float()), "integer.*found torch.float32.*target.long"),
        (lambda: losses.sigmoid_focal(LOGITS, LABELS.bool()), "integer.*found torch.bool"),
        (lambda: losses.shifted_focal(LOGITS, LOGITS.long()), r"labels of shape \(N, A\).*\(2, 3, 4\).*one-hot"),
        (lambda: losses.sigmoid_focal(LOGITS, LABELS, LABELS[0]), r"the labels' shape \(2, 3\), found \(3,\)"),
        (lambda: losses.sigmoid_focal(LOGITS.long(), LABELS), "must be floating, found torch.int64"),
        (lambda: losses.sigmoid_focal(LOGITS, LABELS, alpha=1.5), "alpha must be in .*found 1.5"),
        (lambda: losses.sigmoid_focal(LOGITS, LABELS, gamma=-1), "gamma must be at least 0 and finite, found -1"),
        (
            lambda: losses.shifted_focal(LOGITS, LABELS, gamma=0),
            "gamma must be positive and beta a number, both finite, found 0",
        ),
    ],
)
def test_message(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("loss", [losses.sigmoid_focal, losses.shifted_focal])
def test_compiled_form_is_as_precise(loss):
    """Compiled code has its own logarithm and its own signs; each element's gradient tells on them."""
    logits = torch.cat([torch.linspace(-100, 100, 401), torch.linspace(-3, 3, 401)]).reshape(1, -1, 2)
    target = torch.arange(401).remainder(4).sub(1)[None]  # ignored, background, and two classes
    logits = torch.where(target[..., None] < 0, torch.nan, logits)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    wanted = asserts.value_and_gradient(loss, logits.double(), target)
    found = tuple(each.double() for each in asserts.value_and_gradient(compiled, logits, target))
    torch.testing.assert_close(found, wanted, rtol=3e-6, atol=1e-30)
    assert not found[1][target < 0].any()
    exact = asserts.value_and_gradient(compiled, logits.double(), target)
    torch.testing.assert_close(exact, wanted, rtol=1e-12, atol=1e-40)
