"""Soft suppression against a slow double, the authors' recorded table, torchvision, and by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from headwise.coders.published_soft_nms import published_soft_nms
from headwise.coders.soft_nms import Suppression, soft_nms
from tests.reference import corner_boxes as slow

RECORDED = np.load(Path(__file__).parents[1] / "golden" / "full_inference.npz")
METHODS = ["exponential", "linear", "hard"]


def crowd(num, seed, num_classes=3, spread=40.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * spread
    boxes = torch.cat([corner, corner + 5 + 25 * torch.rand(num, 2, generator=generator)], 1)
    scores = torch.rand(num, generator=generator)
    labels = torch.randint(0, num_classes, (num,), generator=generator)
    return boxes, scores, labels, torch.rand(num, 2, generator=generator)


def test_two_boxes_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10]])
    kept = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1]), rule=Suppression(sigma=0.5))
    assert kept.rows.tolist() == [0, 2, 1]
    torch.testing.assert_close(kept.scores, torch.tensor([0.9, 0.7, 0.8 * math.exp(-0.25 / 0.5)]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exponent", [None, 2.0, 10.0])
@pytest.mark.parametrize("plus_one", [False, True])
def test_against_the_slow_double(method, exponent, plus_one):
    boxes, scores, labels, corner_scores = (each.double() for each in crowd(40, seed=1, spread=15.0))
    rule = Suppression(method, 0.5, 0.4, 0.1, plus_one, exponent)
    kept = soft_nms(boxes, scores, labels.long(), rule=rule, corner_scores=corner_scores)
    expected = slow.soft_nms(
        boxes.numpy(), scores.numpy(), labels.numpy(), method, 0.5, 0.4, 0.1, plus_one, corner_scores.numpy(), exponent
    )
    assert kept.rows.tolist() == [row for row, _, _ in expected]
    assert 1 < len(expected) < 40
    np.testing.assert_allclose(kept.scores, [score for _, score, _ in expected], rtol=1e-12)
    np.testing.assert_allclose(kept.boxes, [box for _, _, box in expected], rtol=1e-9)


def test_hard_is_torchvisions():
    boxes, scores, labels, _ = crowd(80, seed=2)
    kept = soft_nms(boxes, scores, labels, rule=Suppression("hard", iou_threshold=0.4))
    assert kept.rows.tolist() == batched_nms(boxes, scores, labels, 0.4).tolist()


def test_recorded_table():
    rows = torch.from_numpy(RECORDED["snms_exp/in/boxes"])
    table, num_kept = published_soft_nms(rows)
    assert num_kept == int(RECORDED["snms_exp/out/n_keep"])
    np.testing.assert_allclose(table, RECORDED["snms_exp/out/boxes"], rtol=0, atol=1e-6)
    kept = soft_nms(rows[:, :4], rows[:, 4], rule=Suppression(plus_one=True))
    torch.testing.assert_close(torch.cat([kept.boxes, kept.scores[:, None]], 1), table[:num_kept], rtol=0, atol=1e-6)


def heap(num=30):
    """Boxes almost on top of one another: a few survive."""
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(num, 2, generator=generator) * 0.5
    return torch.cat([corner, corner + 60], 1), 0.05 + 0.9 * torch.rand(num, generator=generator)


def test_published_rows_behind_the_kept_are_stale():
    """Defect D5: rows of dropped boxes stay in the table, with scores that nobody lowered."""
    boxes, scores = heap()
    table, num_kept = published_soft_nms(torch.cat([boxes, scores[:, None]], 1))
    assert len(table) == 30
    assert num_kept < 10
    assert (table[num_kept:, 4] > table[num_kept - 1, 4]).any()
    assert len(table[:, :4].unique(dim=0)) < 30


def test_dropped_boxes_are_not_returned():
    boxes, scores = heap()
    table, num_kept = published_soft_nms(torch.cat([boxes, scores[:, None]], 1))
    kept = soft_nms(boxes, scores, rule=Suppression(plus_one=True))
    torch.testing.assert_close(torch.cat([kept.boxes, kept.scores[:, None]], 1), table[:num_kept])


def merging_case():
    """The best box stands second; its corners are sure, those of the first are not."""
    boxes = torch.tensor([[2.0, 2, 12, 12], [0, 0, 10, 10]])
    return boxes, torch.tensor([0.5, 0.9]), torch.tensor([[0.1, 0.1], [0.9, 0.9]])


def merged_by_hand(own, others):
    overlap = 64 / 136
    share = (1 - math.exp(-(overlap**2) / 0.5)) ** 2
    left = 2 * others * share / (own + others * share)
    return [left, left, 10 + left, 10 + left]


def test_published_merging_takes_the_scores_of_other_corners():
    """Defect D6: boxes are swapped, the corners' scores are not."""
    boxes, scores, corner_scores = merging_case()
    rule = Suppression(weight_exponent=2.0)
    table, _ = published_soft_nms(torch.cat([boxes, scores[:, None], corner_scores], 1), rule)
    torch.testing.assert_close(table[0, :4], torch.tensor(merged_by_hand(own=0.1, others=0.9)))


def test_merging_takes_the_scores_of_its_own_corners():
    boxes, scores, corner_scores = merging_case()
    kept = soft_nms(boxes, scores, rule=Suppression(weight_exponent=2.0), corner_scores=corner_scores)
    torch.testing.assert_close(kept.boxes[0], torch.tensor(merged_by_hand(own=0.9, others=0.1)))


def test_published_merging_is_ours_where_nothing_is_swapped_or_dropped():
    boxes, scores, _, corner_scores = crowd(25, seed=5)
    scores = scores.sort(descending=True).values
    rule = Suppression("linear", iou_threshold=0.9, score_threshold=0.0, weight_exponent=3.0)
    table, num_kept = published_soft_nms(torch.cat([boxes, scores[:, None], corner_scores], 1), rule)
    kept = soft_nms(boxes, scores, rule=rule, corner_scores=corner_scores)
    assert num_kept == 25
    torch.testing.assert_close(kept.boxes, table[:, :4])


@pytest.mark.parametrize("method", METHODS)
def test_nothing_and_one(method):
    rule = Suppression(method)
    assert [len(each) for each in soft_nms(torch.zeros(0, 4), torch.zeros(0), rule=rule)] == [0, 0, 0]
    kept = soft_nms(torch.tensor([[0.0, 0, 0, 0]]), torch.tensor([0.0]), rule=rule)
    assert (kept.rows.tolist(), kept.scores.tolist()) == ([0], [0.0])
    assert len(published_soft_nms(torch.zeros(0, 5))[0]) == 0


def test_boxes_without_area_never_meet():
    kept = soft_nms(torch.zeros(3, 4), torch.tensor([0.5, 0.6, 0.7]))
    assert kept.rows.tolist() == [2, 1, 0]
    torch.testing.assert_close(kept.scores, torch.tensor([0.7, 0.6, 0.5]))


def test_half_precision_is_computed_in_single():
    kept = soft_nms(torch.tensor([[0, 0, 4096.0, 4096], [0, 0, 4096, 4095]]).half(), torch.tensor([0.9, 0.8]).half())
    assert kept.scores.dtype == torch.float32
    assert kept.scores.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gaussian"}, "method must be one of"),
        ({"sigma": 0.0}, "sigma must be > 0"),
        ({"iou_threshold": 1.5}, r"iou_threshold must be in \[0, 1\]"),
        ({"score_threshold": -1.0}, "score_threshold must be >= 0"),
        ({"weight_exponent": 0.0}, "weight_exponent must be > 0"),
    ],
)
def test_rules_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Suppression(**options)


def test_bad_input_is_told():
    boxes, scores, labels, _ = crowd(3, seed=0)
    with pytest.raises(ValueError, match=r"boxes must have shape \(3, 4\), found \(2, 4\)"):
        soft_nms(boxes[:2], scores)
    with pytest.raises(ValueError, match="labels must have shape"):
        soft_nms(boxes, scores, labels[:2])
    with pytest.raises(ValueError, match="scores hold a value that is not finite"):
        soft_nms(boxes, scores * torch.nan)
    with pytest.raises(ValueError, match="scores are at least 0, found -2"):
        soft_nms(boxes, torch.tensor([1.0, -1.0, -2.0]))
    with pytest.raises(ValueError, match="Pass corner_scores"):
        soft_nms(boxes, scores, rule=Suppression(weight_exponent=2.0))
    with pytest.raises(ValueError, match=r"rows must be \(n, 7\)"):
        published_soft_nms(torch.zeros(2, 5), Suppression(weight_exponent=2.0))
