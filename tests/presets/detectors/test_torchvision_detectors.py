"""RetinaNet's and SSD's totals on real anchors: torchvision's own matching, coding and losses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.models.detection import RetinaNet, _utils
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

import headwise as hw
from headwise.coders import anchors as coder

GRID = coder.centered_anchors((64, 64), strides=(8, 16), sides=(16, 32))
NUM_CLASSES = 3
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
SEEDS = given(seed=st.integers(0, 2**31))
# Torchvision encodes boxes in float32. A coordinate up to 64 is rounded by 64 times half of eps, at both ends of a
# difference; over an anchor of at least 16 pixels, times a weight of at most 10, that much of a slope is its rounding.
ROUNDING = 64 * torch.finfo(torch.float32).eps * max(WEIGHTS) / 16


def drawn(seed, num_columns, most=3):
    """Boxes and labels of two images, and leaves: logits and deltas of all anchors."""
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for number in torch.randint(1, most + 1, (2,), generator=generator).tolist():
        corner = 40 * torch.rand(number, 2, generator=generator)
        boxes.append(torch.cat([corner, corner + 8 + 16 * torch.rand(number, 2, generator=generator)], 1))
        labels.append(torch.randint(0, NUM_CLASSES, (number,), generator=generator))
    num_anchors = sum(map(len, GRID))
    sizes = [(2, num_anchors, columns) for columns in (num_columns, 4)]
    leaves = [torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes]
    return boxes, labels, leaves


def levels(leaves, images=slice(None)):
    parts = zip(*(torch.split(leaf[images], [len(each) for each in GRID], 1) for leaf in leaves), strict=True)
    return {"levels": [{"logits": logits, "deltas": deltas} for logits, deltas in parts]}


def cut(targets, images):
    return {"levels": [{name: each[images] for name, each in level.items()} for level in targets["levels"]]}


def annotated(boxes, labels, first):
    return [{"boxes": each, "labels": names + first} for each, names in zip(boxes, labels, strict=True)]


def assert_equal(found, wanted, leaves, tol):
    torch.testing.assert_close(found.detach(), wanted.detach(), rtol=tol, atol=0)
    ours, theirs = (torch.autograd.grad(each, leaves) for each in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=10 * tol, atol=ROUNDING)


@settings(deadline=None, max_examples=25)
@SEEDS
def test_retinanet(seed):
    boxes, labels, leaves = drawn(seed, NUM_CLASSES)
    head = RetinaNetHead(8, 9, NUM_CLASSES)
    head.regression_head._loss_type = "smooth_l1"
    network: Any = SimpleNamespace(proposal_matcher=_utils.Matcher(0.5, 0.4, allow_low_quality_matches=True), head=head)
    outputs = {"cls_logits": leaves[0], "bbox_regression": leaves[1]}
    theirs = RetinaNet.compute_loss(network, annotated(boxes, labels, 0), outputs, [torch.cat(GRID)] * 2)
    targets = coder.encode_boxes(boxes, labels, GRID)
    criterion = hw.presets.retinanet()
    # torchvision averages what is divided image by image; the paper's and ours divide once.
    images = [slice(number, number + 1) for number in range(2)]
    ours = [criterion(levels(leaves, each), cut(targets, each)) for each in images]
    for name, key in {"classification": "classification", "box": "bbox_regression"}.items():
        found = torch.stack([each[name].value for each in ours]).mean()
        torch.testing.assert_close(found, theirs[key], rtol=1e-5, atol=0)
    found = torch.stack([each.total for each in ours]).mean()
    assert_equal(found, torch.stack(list(theirs.values())).sum(), leaves, 1e-5)


def their_ssd(boxes, labels, leaves, matched):
    network: Any = SimpleNamespace(box_coder=_utils.BoxCoder(WEIGHTS), neg_to_pos_ratio=3)
    outputs = {"cls_logits": leaves[0], "bbox_regression": leaves[1]}
    return SSD.compute_loss(network, annotated(boxes, labels, 1), outputs, [torch.cat(GRID)] * 2, matched)


def matches(boxes):
    return [_utils.SSDMatcher(0.5)(box_iou(each, torch.cat(GRID))) for each in boxes]


def our_ssd(boxes, labels, leaves, as_published=False):
    targets = coder.encode_boxes(boxes, labels, GRID, background=0.5, forced="best", weights=WEIGHTS)
    return hw.presets.ssd(as_published=as_published, num_levels=2)(levels(leaves), targets)


@settings(deadline=None, max_examples=25)
@SEEDS
@example(seed=61359)  # one gradient of 5,760 is 7e-8 off
@pytest.mark.parametrize("as_published", [False, True])
def test_ssd(as_published, seed):
    boxes, labels, leaves = drawn(seed, NUM_CLASSES + 1)
    matched = matches(boxes)
    assert all(4 * int((each >= 0).sum()) < len(each) for each in matched)  # background enough, so S1 does not strike
    theirs = their_ssd(boxes, labels, leaves, matched)
    found = our_ssd(boxes, labels, leaves, as_published)
    torch.testing.assert_close(found["box"].value, theirs["bbox_regression"], rtol=1e-5, atol=0)
    assert_equal(found.total, torch.stack(list(theirs.values())).sum(), leaves, 1e-5)


def test_s1_strikes_where_boxes_are_many():
    boxes, labels, leaves = drawn(0, NUM_CLASSES + 1)
    places = torch.cat(GRID)[::3]  # a third of all anchors are objects
    boxes, labels = [places, boxes[1]], [torch.zeros(len(places), dtype=torch.long), labels[1]]
    theirs = torch.stack(list(their_ssd(boxes, labels, leaves, matches(boxes)).values())).sum()
    assert_equal(our_ssd(boxes, labels, leaves, True).total, theirs, leaves, 1e-5)
    assert our_ssd(boxes, labels, leaves).total < 0.98 * theirs
