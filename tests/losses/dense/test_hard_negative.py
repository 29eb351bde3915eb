"""The hardest negatives: exactly as many and exactly those that a stable descending sort puts first."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise import losses, normalizers
from headwise.losses.parts.mining import hardest
from headwise.losses.parts.thresholds import by_counting, by_histograms, by_sorting, ordered_keys
from tests.reference.losses import mined_negatives


def selected(output, target, mask=None, **options):
    """The pixels that get a gradient."""
    output = output.clone().requires_grad_()
    value = losses.hard_negative_cross_entropy(output, target, mask, **options)
    return (torch.autograd.grad(value, output)[0] != 0).any(dim=1)


def test_counted_by_hand():
    # One text pixel, five others of which one is masked out: the two hardest of the remaining four count.
    output = torch.tensor([[[[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], [[2.0, 3.0, 1.0, 9.0, -1.0, 2.0]]]])
    target = torch.tensor([[[True, False, False, False, False, False]]])
    mask = torch.tensor([[[True, True, True, False, True, True]]])
    value = losses.hard_negative_cross_entropy(output, target, mask, ratio=2)
    expected = np.log1p(np.exp(-2)) + np.log1p(np.exp(3)) + np.log1p(np.exp(2))
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert normalizers.mined(target, mask, ratio=2) == 3
    assert selected(output, target, mask, ratio=2).flatten().tolist() == [True, True, False, False, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), levels=st.sampled_from([1, 2, 5, 1000]), per_image=st.booleans())
def test_ties_go_to_the_first(dtype, seed, levels, per_image):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 4, 7)
    margin = torch.randint(-levels, levels + 1, shape, generator=generator).to(dtype) * (4 / levels)
    target = torch.rand(shape, generator=generator) < 0.15
    mask = torch.rand(shape, generator=generator) < 0.8
    found = selected(torch.stack((-margin, margin), 1), target, mask, per_image=per_image, num_fallback=5)
    groups = [slice(i, i + 1) for i in range(2)] if per_image else [slice(None)]
    for group in groups:
        positive, negative = (mask & target)[group].numpy(), (mask & ~target)[group].numpy()
        expected = positive.copy()
        expected.flat[mined_negatives(margin[group].numpy(), positive, negative, 3.0, 5)] = True
        assert np.array_equal(found[group].numpy(), expected)
    count = normalizers.mined(target, mask, per_image=per_image, num_fallback=5)
    assert found.sum() == count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31))
def test_all_searches_find_the_same_threshold(dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    exponent = 60 * torch.rand(3, 1, 50, generator=generator, dtype=torch.float64) - 30
    hardness = (10**exponent).to(dtype) * torch.randint(-1, 2, (3, 1, 50), generator=generator)
    candidates = torch.rand(3, 1, 50, generator=generator) < 0.8
    count = (torch.rand(3, generator=generator) * candidates.sum((1, 2))).int()
    keys = ordered_keys(hardness, candidates)
    thresholds, num_ties = by_histograms(keys, count)
    for search in (by_counting, partial(by_counting, width=4), by_sorting):
        for found, same in zip((thresholds, num_ties), search(keys, count), strict=True):
            assert torch.equal(found, same)
    for group in range(3):
        if count[group] > 0:
            ordered = hardness[group][candidates[group]].sort(descending=True).values
            kth = ordered[count[group] - 1].view(1, 1, 1)
            assert thresholds[group] == ordered_keys(kth, torch.ones_like(kth, dtype=torch.bool))
    assert torch.equal(hardest(hardness, candidates, count).sum((1, 2)), count)


def test_infinite_and_nan_losses_are_the_hardest():
    hardness = torch.tensor([[[1.0, torch.inf, 2.0, torch.nan, -torch.nan]]])
    assert torch.signbit(hardness).flatten()[4]
    everywhere = torch.ones_like(hardness, dtype=torch.bool)
    chosen = hardest(hardness, everywhere, torch.tensor([3])).flatten().tolist()
    assert chosen == [False, True, False, True, True]


def test_no_negative_and_no_pixel():
    output = torch.zeros(1, 2, 2, 2, requires_grad=True)
    text = torch.ones(1, 2, 2, dtype=torch.bool)
    assert losses.hard_negative_cross_entropy(output, text).item() == pytest.approx(4 * np.log(2))
    empty = losses.hard_negative_cross_entropy(output[:0], text[:0])
    assert empty == 0
    (gradient,) = torch.autograd.grad(empty, output)
    assert torch.equal(gradient, torch.zeros_like(output))


def test_t15_one_image_takes_all_negatives_unless_each_ranks_its_own():
    """T15: over the batch, one hard image takes the negatives of all; per image, batching changes nothing."""
    text = torch.zeros(2, 4, 4, dtype=torch.bool)
    text[:, 0, 0] = True
    margin = torch.stack((torch.full((4, 4), 5.0), torch.full((4, 4), -5.0)))
    output = torch.stack((-margin, margin), 1)
    over_batch = selected(output, text) & ~text
    assert over_batch.sum((1, 2)).tolist() == [6, 0]
    own = selected(output, text, per_image=True) & ~text
    assert own.sum((1, 2)).tolist() == [3, 3]
    together = losses.hard_negative_cross_entropy(output, text, per_image=True)
    apart = sum(losses.hard_negative_cross_entropy(output[i : i + 1], text[i : i + 1], per_image=True) for i in (0, 1))
    torch.testing.assert_close(together, apart)


def test_signed_zeros_are_equal():
    hardness = torch.tensor([[[-0.0, 0.0, -0.0, -1.0]]])
    everywhere = torch.ones_like(hardness, dtype=torch.bool)
    chosen = hardest(hardness, everywhere, torch.tensor([2])).flatten().tolist()
    assert chosen == [True, True, False, False]


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("ratio", [1e30, float("inf")])
def test_a_ratio_beyond_all_counts_takes_every_negative(ratio, per_image):
    """It took none, and was divided by -9e18."""
    torch.manual_seed(0)
    output, target = torch.randn(3, 2, 8), torch.arange(24).view(3, 8) % 8 == 0
    options = {"ratio": ratio, "per_image": per_image}
    found = losses.hard_negative_cross_entropy(output, target, **options)
    torch.testing.assert_close(found, losses.cross_entropy(output, target))
    assert normalizers.mined(target, **options) == 24
