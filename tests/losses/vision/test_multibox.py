"""SSD's multibox: shared properties, equality with torchvision's own loss, and its defect S1."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.ssd import SSD

from headwise import losses, normalizers
from tests import asserts
from tests.asserts import LossCase
from tests.reference import losses as reference


def boxes(generator, batch):
    output = 2 * torch.randn(batch, 6, 4, generator=generator, dtype=torch.float64)
    target = torch.randn(batch, 6, 4, generator=generator, dtype=torch.float64)
    return output, target, torch.rand(batch, 6, generator=generator) < 0.7


def slow_boxes(output, target, mask=None, **options):
    mask = None if mask is None else np.repeat(mask[..., None], 4, -1)
    return reference.smooth_l1(output, target, mask, **options)


def classes(generator, batch, share=0.3):
    """Logits (N, C + 1, A), for the shared properties look for channels in dimension 1; no mask, hence labels of -1."""
    output = 2 * torch.randn(batch, 4, 12, generator=generator, dtype=torch.float64)
    target = torch.randint(1, 4, (batch, 12), generator=generator)
    target = torch.where(torch.rand(batch, 12, generator=generator) < share, target, 0)
    return output, target, torch.rand(batch, 12, generator=generator) < 0.8


def ignoring(loss, output, target, mask=None, **options):
    """A mask, which the loss has not, as labels of -1; two levels."""
    target = target if mask is None else torch.where(mask > 0, target, -1)
    logits = output.movedim(1, -1)
    return loss(logits[:, :5], logits[:, 5:], target[:, :5], target[:, 5:], **options)


def slow_published(output, target, mask=None, *, ratio):
    """The positives twice over: all of them, then those that a stable sort by rank takes behind the background."""
    total = 0.0
    for n in range(len(target)):
        valid = [a for a in range(target.shape[1]) if mask is None or mask[n, a]]
        loss = {a: reference.cross_entropy(output[n : n + 1, :, a], target[n : n + 1, a]) for a in valid}
        positive = [a for a in valid if target[n, a] > 0]
        ranked = sorted(valid, key=lambda a: (target[n, a] > 0, 0 if target[n, a] > 0 else -loss[a], a))
        total += sum(loss[a] for a in positive) + sum(loss[a] for a in ranked[: int(ratio * len(positive))])
    return total


def positives(target, mask=None):
    return normalizers.foreground(target if mask is None else torch.where(mask > 0, target, -1), None)


CASES = [
    LossCase(
        "multibox",
        partial(ignoring, losses.multibox_cross_entropy, ratio=1.0),
        positives,
        partial(reference.hard_negative_cross_entropy, ratio=1.0, num_fallback=0, per_image=True),
        classes,
    ),
    LossCase(
        "published_multibox",
        partial(ignoring, losses.published_multibox_cross_entropy, ratio=3.0),
        positives,
        partial(slow_published, ratio=3.0),
        classes,
    ),
    LossCase(
        "box_smooth_l1",
        partial(losses.box_smooth_l1, beta=0.7),
        normalizers.count,
        partial(slow_boxes, beta=0.7),
        boxes,
    ),
]
PROPERTIES = [
    asserts.assert_matches_reference,
    asserts.assert_adds_over_batches,
    asserts.assert_ignores_order_of_batch,
    asserts.assert_empty_mask_is_zero,
    asserts.assert_mask_of_any_dtype,
    asserts.assert_no_gradient_without_need,
    asserts.assert_finite_at_extremes,
    asserts.assert_no_sync,
    asserts.assert_compiles,
]


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda each: each.__name__)
def test_properties(holds, each):
    for seed in (0,) if holds is asserts.assert_compiles else range(4):
        holds(each, seed)


@pytest.mark.parametrize("each", CASES[:2], ids=lambda each: each.name)
def test_ignored_boxes_are_hidden(each):
    for poison in (torch.nan, torch.inf):
        asserts.assert_mask_hides(each, 0, poison)


def test_gradients():
    asserts.assert_gradients(CASES[0], 0)


def torchvision_loss(logits, label, deltas, targets):
    """torchvision's own loss, its matching and box coding replaced by what is matched and coded already."""
    positive = label > 0
    per_image = [
        {"boxes": boxes[found], "labels": numbers[found]}
        for boxes, numbers, found in zip(targets, label, positive, strict=True)
    ]
    matched = [torch.where(found, found.cumsum(0) - 1, -1) for found in positive]
    ssd = SimpleNamespace(box_coder=SimpleNamespace(encode_single=lambda boxes, anchors: boxes), neg_to_pos_ratio=3)
    head = {"bbox_regression": deltas, "cls_logits": logits}
    return SSD.compute_loss(ssd, per_image, head, list(targets), matched)


def drawn(seed, share, num_boxes=40):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, num_boxes, 5, generator=generator, dtype=torch.float64)
    label = torch.randint(1, 5, (3, num_boxes), generator=generator)
    label = torch.where(torch.rand(3, num_boxes, generator=generator) < share, label, 0)
    deltas, targets = torch.randn(2, 3, num_boxes, 4, generator=generator, dtype=torch.float64)
    return logits, label, deltas, targets


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31))
def test_equals_torchvision_where_there_is_background_enough(seed):
    logits, label, deltas, targets = drawn(seed, 0.1)
    if ((label > 0).sum(1) * 4 > 40).any():
        label = label * (torch.arange(40) < 10)  # ten positives leave thirty boxes of background
    theirs = torchvision_loss(logits, label, deltas, targets)
    count = normalizers.foreground(label).clamp(min=1)
    found = {
        "classification": losses.multibox_cross_entropy(logits, label) / count,
        "bbox_regression": losses.box_smooth_l1(deltas, targets, label) / count,
    }
    for name, wanted in theirs.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-9, atol=1e-12)


def test_s1_positives_count_once():
    logits, label, deltas, targets = drawn(0, 0.4, num_boxes=20)
    assert ((label > 0).sum(1) * 3 >= 20).all()
    count = normalizers.foreground(label)
    theirs = torchvision_loss(logits, label, deltas, targets)["classification"]
    published = losses.published_multibox_cross_entropy(logits, label) / count
    torch.testing.assert_close(published, theirs, rtol=1e-9, atol=0)
    mended = losses.multibox_cross_entropy(logits, label) / count
    every = losses.cross_entropy(logits.movedim(-1, 1), label) / count
    torch.testing.assert_close(mended, every, rtol=1e-12, atol=0)
    assert published > mended * 1.1


def test_s2_an_image_without_objects_contributes_nothing():
    logits, label, *_ = drawn(1, 0.2)
    label[1] = 0
    for loss in (losses.multibox_cross_entropy, losses.published_multibox_cross_entropy):
        _, gradient = asserts.value_and_gradient(loss, logits, label)
        assert not gradient[1].any()
        assert gradient[0].any()


@pytest.mark.parametrize("loss", [losses.multibox_cross_entropy, losses.published_multibox_cross_entropy])
def test_levels_share_one_ranking(loss):
    logits, label, *_ = drawn(2, 0.15)
    parts = [slice(0, 25), slice(25, 26), slice(26, 40)]
    together = loss(*(logits[:, part] for part in parts), *(label[:, part] for part in parts))
    torch.testing.assert_close(together, loss(logits, label), rtol=1e-12, atol=0)
    apart = sum(loss(logits[:, part], label[:, part]) for part in parts)
    assert not torch.isclose(together, apart)


def test_foreground_by_hand():
    assert normalizers.foreground(torch.tensor([[1, 0, -1]]), torch.tensor([[3, 2]]), None) == 3
    with pytest.raises(ValueError, match="at least one level"):
        normalizers.foreground(None)


LOGITS, LABELS = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)
DELTAS = torch.zeros(2, 4, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.multibox_cross_entropy(LOGITS, LABELS, LABELS), "found 3 tensors.*label -1, not a mask"),
        (lambda: losses.published_multibox_cross_entropy(), "found 0 tensors"),
        (lambda: losses.multibox_cross_entropy(LOGITS.movedim(1, 2), LABELS), r"labels of shape \(N, A\).*\(2, 4, 3\)"),
        (lambda: losses.multibox_cross_entropy(LOGITS, LABELS.bool()), "bool"),
        (lambda: losses.multibox_cross_entropy(LOGITS, LABELS, ratio=-1), "at least 0, found -1"),
        (lambda: losses.published_multibox_cross_entropy(LOGITS, LABELS, ratio=-1), "at least 0, found -1"),
        (lambda: losses.box_smooth_l1(DELTAS, DELTAS, LABELS), r"mask \(N, A\).*mask \(2, 3\)"),
        (lambda: losses.box_smooth_l1(DELTAS, DELTAS[:1]), r"targets \(1, 4, 4\)"),
        (lambda: losses.box_smooth_l1(DELTAS, DELTAS, beta=0), "beta must be positive"),
    ],
)
def test_message(call, words):
    with pytest.raises(ValueError, match=words):
        call()
