"""Anchors: recorded targets and boxes, torchvision's matchers, and the defects R6 to R10 with their mending."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder, Matcher, SSDMatcher
from torchvision.ops import box_iou

import headwise.coders.anchors as coder

FOLDER = Path(__file__).parents[1] / "golden"
TARGETS, BOXES = np.load(FOLDER / "retinanet_targets.npz"), np.load(FOLDER / "retinanet_decode.npz")
GRID = coder.centered_anchors((128, 128))
ALL = torch.cat(GRID)
PUBLISHED: dict[str, Any] = {"forced": "none", "plus_one": True}
SSD: dict[str, Any] = {"background": 0.5, "forced": "best", "weights": (10.0, 10.0, 5.0, 5.0)}


def encode(boxes, labels=None, **options):
    """The labels (A,) and deltas (A, 4) of one image."""
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else torch.as_tensor(labels)
    levels = coder.encode_boxes([boxes], [labels], options.pop("anchors", GRID), **options)["levels"]
    return torch.cat([level["label"][0] for level in levels]), torch.cat([level["deltas"][0] for level in levels])


def shapes(levels):
    """Center and size, as the recorded anchors are told."""
    boxes = torch.cat(levels)
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1).numpy()


def test_recorded_anchors():
    for size in (64, 100):
        found = shapes(coder.centered_anchors((size, size)))
        np.testing.assert_allclose(found, TARGETS[f"anchors/out/boxes{size}"], rtol=2e-6, atol=2e-5)
    found = shapes(coder.centered_anchors((600, 600)))
    assert len(found) == 67995
    np.testing.assert_allclose(found[:27], TARGETS["anchors/out/boxes600_head"], rtol=2e-6, atol=2e-5)
    np.testing.assert_allclose(found[-27:], TARGETS["anchors/out/boxes600_tail"], rtol=2e-6, atol=2e-4)
    np.testing.assert_allclose(found.astype(np.float64).sum(0), TARGETS["anchors/out/boxes600_sum"], rtol=1e-7)


@pytest.mark.parametrize("case", ["s128", "s128_one"])
def test_recorded_targets(case):
    label, deltas = encode(TARGETS[f"{case}/in/boxes"], TARGETS[f"{case}/in/labels"], **PUBLISHED)
    np.testing.assert_array_equal(label.numpy(), TARGETS[f"{case}/out/cls"])
    np.testing.assert_array_equal((label > 0).nonzero()[:, 0].numpy(), TARGETS[f"{case}/out/idx_pos"])
    np.testing.assert_array_equal((label < 0).nonzero()[:, 0].numpy(), TARGETS[f"{case}/out/idx_ign"])
    np.testing.assert_array_equal(label[label > 0].numpy(), TARGETS[f"{case}/out/cls_pos"])
    np.testing.assert_allclose(deltas.numpy(), TARGETS[f"{case}/out/loc"], rtol=1e-5, atol=2e-6)


def outputs(pairs, num_classes=20, grid=GRID):
    """Outputs that say (anchor, class, logit, deltas), and logits of -10 and deltas of 0 elsewhere."""
    num = sum(map(len, grid))
    logits, deltas = torch.full((1, num, num_classes), -10.0), torch.zeros(1, num, 4)
    for anchor, number, logit, moved in pairs:
        logits[0, anchor, number] = logit
        deltas[0, anchor] = torch.as_tensor(moved)
    sizes = [len(level) for level in grid]
    parts = zip(logits.split(sizes, 1), deltas.split(sizes, 1), strict=True)
    return {"levels": [{"logits": one, "deltas": other} for one, other in parts]}


@pytest.mark.parametrize("case", ["s128_few", "s128_none"])
def test_recorded_boxes(case):
    found = outputs([])
    for name, key in (("logits", "cls"), ("deltas", "loc")):
        flat = torch.cat([level[name].flatten() for level in found["levels"]])
        flat[torch.from_numpy(BOXES[f"{case}/in/{key}_idx"]).long()] = torch.from_numpy(BOXES[f"{case}/in/{key}_val"])
        sizes = [level[name].numel() for level in found["levels"]]
        for level, part in zip(found["levels"], flat.split(sizes), strict=True):
            level[name] = part.view_as(level[name])
    (image,) = coder.decode_boxes(found, GRID, class_agnostic=True, plus_one=True, score_threshold=0.5)
    np.testing.assert_allclose(image["boxes"].numpy(), BOXES[f"{case}/out/boxes"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(image["labels"].numpy(), BOXES[f"{case}/out/labels"])
    assert (image["scores"].diff() <= 0).all()


def drawn(seed, num_boxes, size=128.0, smallest=4.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num_boxes, 2, generator=generator) * size
    side = smallest + torch.rand(num_boxes, 2, generator=generator) * size / 2
    return torch.cat([corner, corner + side], 1)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), num_boxes=st.integers(1, 8), forced=st.sampled_from(["none", "ties", "best"]))
def test_matches_as_torchvision(seed, num_boxes, forced):
    boxes = drawn(seed, num_boxes, size=90)
    overlap = box_iou(boxes, ALL)
    theirs = SSDMatcher(0.5) if forced == "best" else Matcher(0.5, 0.4, forced == "ties")
    background = 0.5 if forced == "best" else 0.4
    found = coder.match(overlap, foreground=0.5, background=background, forced=forced)
    torch.testing.assert_close(found, theirs(overlap.clone()))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), weights=st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]))
def test_deltas_and_back(seed, weights):
    boxes, places = drawn(seed, 20).double(), drawn(seed + 1, 20).double()
    deltas = coder.encode_deltas(boxes, places, weights)
    torch.testing.assert_close(deltas, BoxCoder(weights).encode_single(boxes, places), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(coder.decode_deltas(deltas, places, weights), boxes, rtol=1e-12, atol=1e-9)
    wild = 40 * deltas
    theirs = BoxCoder(weights).decode_single(wild, places)
    torch.testing.assert_close(coder.decode_deltas(wild, places, weights), theirs, rtol=1e-9, atol=1e-6)


def test_deltas_by_hand():
    deltas = coder.encode_deltas(torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[0.0, 0, 10, 20]]), (1, 2, 1, 1))
    assert deltas[0].tolist() == pytest.approx([1.5, 3.0, np.log(2), np.log(2)])


def test_labels_by_hand():
    places = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4.5], [0, 0, 10, 3.9], [50, 50, 60, 60]])]
    label, deltas = encode([[0, 0, 10, 10]], [6], anchors=places)
    assert label.tolist() == [7, -1, 0, 0]
    assert deltas[0].tolist() == [0, 0, 0, 0]
    assert deltas[3].tolist() == pytest.approx([-5, -5, 0, 0])
    label, _ = encode([[0, 0, 10, 10]], [6], anchors=places, background=0.2)
    assert label.tolist() == [7, -1, -1, 0]


def perfect(label, deltas, num_classes=5):
    """Outputs that say what targets say."""
    hot = torch.nn.functional.one_hot(label.clamp(min=0), num_classes + 1)[..., 1:]
    sizes = [len(level) for level in GRID]
    parts = zip((hot * 20.0 - 10)[None].split(sizes, 1), deltas[None].split(sizes, 1), strict=True)
    return {"levels": [{"logits": one, "deltas": other} for one, other in parts]}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), num_boxes=st.integers(0, 4), ssd=st.booleans())
def test_what_is_encoded_is_decoded(seed, num_boxes, ssd):
    boxes = drawn(seed, num_boxes, size=80, smallest=16)
    labels = torch.arange(num_boxes)  # one class each, so that none suppresses another
    options = SSD if ssd else {}
    weights = options.get("weights", (1.0,) * 4)
    label, deltas = encode(boxes, labels, **options)
    (found,) = coder.decode_boxes(perfect(label, deltas), GRID, weights=weights, nms_threshold=0.99)
    for number in label[label > 0].unique().tolist():
        mine = found["boxes"][found["labels"] == number - 1]
        torch.testing.assert_close(mine, boxes[number - 1].expand_as(mine), rtol=1e-4, atol=1e-3)
        assert len(mine)


@pytest.mark.parametrize(("plus_one", "wanted"), [(True, [99.5, 99.5, 163.5, 163.5]), (False, [100, 100, 163, 163])])
def test_r6_a_box_comes_back_as_it_was(plus_one, wanted):
    grid = coder.centered_anchors((256, 256))
    label, deltas = encode([[100, 100, 163, 163]], anchors=grid, plus_one=plus_one)
    positive = label > 0
    assert positive.any()
    back = coder.decode_deltas(deltas[positive], torch.cat(grid)[positive])
    torch.testing.assert_close(back, torch.tensor(wanted).float().expand_as(back), rtol=0, atol=1e-3)


def test_r6_another_pixel_changes_labels():
    clean, published = (encode([[30, 30, 62, 62]], forced="none", plus_one=each)[0] for each in (False, True))
    assert (clean != published).any()
    assert (published > 0).sum() == 22
    brute = box_iou(torch.tensor([[30.0, 30, 62, 62]]), ALL)[0]
    torch.testing.assert_close(clean > 0, brute >= 0.5)


@pytest.mark.parametrize("side", [(8, 8), (16, 16), (20, 20), (10, 60), (100, 10)])
def test_r7_small_and_thin_boxes_have_anchors(side):
    box = [[14.0, 14, 14 + side[0], 14 + side[1]]]
    assert not (encode(box, **PUBLISHED)[0] > 0).any()
    for forced in ("ties", "best"):
        label, _ = encode(box, forced=forced)
        assert (label > 0).any()
        assert box_iou(torch.tensor(box), ALL)[0][label > 0].min() == box_iou(torch.tensor(box), ALL).max()


def test_a_box_that_overlaps_no_anchor_gets_none_of_them():
    overlap = box_iou(torch.tensor([[500.0, 500, 520, 520]]), ALL)
    assert (Matcher(0.5, 0.4, True)(overlap.clone()) == 0).all()  # torchvision's gets all
    assert (coder.match(overlap, foreground=0.5, background=0.4, forced="ties") == -1).all()


@pytest.mark.parametrize("wrong", [{"forced": False}, {"forced": "first"}, {"background": 0.7}, {"foreground": 50.0}])
def test_a_rule_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^match: needs 0 <= background <= foreground <= 1 and forced 'none', "):
        coder.match(torch.rand(2, 3), **({"foreground": 0.5, "background": 0.4, "forced": "none"} | wrong))


def test_r8_an_image_without_boxes_is_background():
    with pytest.raises(IndexError):  # what the original asks torch for
        box_iou(torch.zeros(0, 4), ALL).T.max(1)
    for options in ({}, PUBLISHED, SSD):
        label, deltas = encode([], **options)
        assert label.dtype == torch.int64
        assert not label.any()
        assert not deltas.any()


AWAY, THERE = (0, 0, 0, 0), 900  # an anchor of side 32 in the middle rows


def test_r9_one_box_is_found():
    with pytest.raises(IndexError):  # what the original does with one detection
        torch.tensor([[3.0]]).nonzero().squeeze()[:, 0]
    published: dict[str, Any] = {"class_agnostic": True, "plus_one": True}
    for options in ({}, published):
        (found,) = coder.decode_boxes(outputs([(THERE, 3, 2.0, AWAY)]), GRID, **options)
        torch.testing.assert_close(found["boxes"], ALL[THERE][None])
        assert found["labels"].tolist() == [3]
        assert found["scores"].tolist() == pytest.approx([torch.tensor(2.0).sigmoid().item()])


def test_r10_classes_do_not_suppress_one_another():
    said = outputs([(THERE, 3, 2.0, AWAY), (THERE + 9, 7, 1.0, (-8 / 32, 0, 0, 0))])
    (published,) = coder.decode_boxes(said, GRID, class_agnostic=True)
    (found,) = coder.decode_boxes(said, GRID)
    assert published["labels"].tolist() == [3]
    assert found["labels"].tolist() == [3, 7]


def test_classes_stay_apart_below_0_and_next_to_a_far_box():
    anchors = [torch.tensor([[0.0, 0, 10, 10], [-11, -11, -1, -1], [0, 0, 10, 10.5]])]
    logits = torch.tensor([[[5.0, -9, -9], [-9, 4, -9], [-9, -9, -9]]])
    said = {"levels": [{"logits": logits, "deltas": torch.zeros(1, 3, 4)}]}
    (found,) = coder.decode_boxes(said, anchors)
    assert found["labels"].tolist() == [0, 1]
    far = torch.tensor([[[0.0] * 4, [1e9, 0, 0, 0], [0.0] * 4]])
    said = {"levels": [{"logits": torch.tensor([[[-9.0, 5], [4, -9], [-9, 3]]]), "deltas": far}]}
    (found,) = coder.decode_boxes(said, anchors)
    assert found["labels"].tolist() == [1, 0]  # the second box of class 1 is the first one's


def test_one_anchor_may_hold_two_classes_but_not_as_published():
    said = outputs([(THERE, 3, 2.0, AWAY)])
    for level in said["levels"]:
        level["logits"][..., 7] = torch.where(level["logits"][..., 3] > 0, 1.0, -10.0)
    assert coder.decode_boxes(said, GRID)[0]["labels"].tolist() == [3, 7]
    assert coder.decode_boxes(said, GRID, class_agnostic=True)[0]["labels"].tolist() == [3]


def test_softmax_leaves_the_background_out():
    said = outputs([(THERE, 0, 5.0, AWAY), (THERE + 300, 4, 5.0, AWAY)])
    (found,) = coder.decode_boxes(said, GRID, activation="softmax", score_threshold=0.5)
    assert found["labels"].tolist() == [3]
    torch.testing.assert_close(found["boxes"], ALL[THERE + 300][None])


def test_thresholds_numbers_and_cuts():
    said = outputs([(9 * number, 2, 1.0 + number / 100, AWAY) for number in range(0, 256, 5)])
    (every,) = coder.decode_boxes(said, GRID, nms_threshold=1.0)
    assert len(every["boxes"]) == 52
    assert len(coder.decode_boxes(said, GRID, nms_threshold=1.0, num_detections=7)[0]["boxes"]) == 7
    (few,) = coder.decode_boxes(said, GRID, nms_threshold=1.0, num_candidates=10)
    torch.testing.assert_close(few["boxes"], every["boxes"][:10])
    score = every["scores"][20].item()
    assert len(coder.decode_boxes(said, GRID, nms_threshold=1.0, score_threshold=score)[0]["boxes"]) == 20
    (cut,) = coder.decode_boxes(said, GRID, nms_threshold=1.0, image_size=(128, 100))
    assert cut["boxes"].min() == 0
    assert cut["boxes"][:, 2].max() == 100
    assert cut["boxes"][:, 3].max() == 128
    assert 0 < len(cut["boxes"]) < 52  # those wholly beyond the right edge are gone


def test_crowds_are_ignored_but_objects_in_them_are_not():
    boxes, ignored = [[40.0, 40, 72, 72], [0, 0, 90, 90]], [torch.tensor([False, True])]
    alone, _ = encode(boxes[:1])
    label, deltas = encode(boxes, [0, 1], ignored=ignored)
    inside = (ALL[:, :2] >= 0).all(1) & (ALL[:, 2:] <= 90).all(1)
    torch.testing.assert_close(label[alone > 0], alone[alone > 0])
    assert (label[inside & (alone == 0)] == -1).all()
    beyond = (ALL[:, 0] > 90) | (ALL[:, 1] > 90)
    torch.testing.assert_close(label[beyond], alone[beyond])
    torch.testing.assert_close(deltas, encode(boxes[:1])[1])
    only, _ = encode(boxes[1:], [1], ignored=[torch.tensor([True])])
    assert set(only.tolist()) == {-1, 0}


def test_batches_and_levels():
    targets = coder.encode_boxes(
        [drawn(0, 3), torch.zeros(0, 4)], [torch.tensor([0, 1, 2]), torch.zeros(0).long()], GRID
    )
    assert [tuple(level["label"].shape) for level in targets["levels"]] == [(2, len(level)) for level in GRID]
    assert [tuple(level["deltas"].shape) for level in targets["levels"]] == [(2, len(level), 4) for level in GRID]
    assert not any(level["label"][1].any() for level in targets["levels"])
    empty = coder.encode_boxes([], [], GRID)
    assert empty["levels"][0]["label"].shape == (0, len(GRID[0]))


def unlike(**dimensions):
    """Outputs whose second level has twice the size along a dimension."""
    said = outputs([])
    for name, dimension in dimensions.items():
        said["levels"][1][name] = torch.cat([said["levels"][1][name]] * 2, dimension)
    return said


BOX, NAME = torch.tensor([[1.0, 1, 9, 9]]), torch.tensor([0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: coder.encode_boxes([BOX], [], GRID), "one entry an image, found 1, 0"),
        (lambda: coder.encode_boxes([BOX], [NAME], GRID[0]), r"a list with one tensor \(A_l, 4\) a level"),  # type: ignore[arg-type]
        (lambda: coder.encode_boxes([BOX], [NAME], []), "a list with one tensor"),
        (lambda: coder.encode_boxes([BOX], [NAME, NAME][:1], GRID, ignored=[]), "found 1, 1 and 0"),
        (lambda: coder.encode_boxes([BOX[:, :3]], [NAME], GRID), r"boxes \(n, 4\).*found \(1, 3\)"),
        (lambda: coder.encode_boxes([BOX], [NAME.float()], GRID), "integer labels.*found torch.float32"),
        (lambda: coder.encode_boxes([BOX], [NAME - 1], GRID), "box 0 of image 0 .* with label -1"),
        (lambda: coder.encode_boxes([BOX[:, [2, 1, 0, 3]]], [NAME], GRID), r"is \[9.0, 1.0, 1.0, 9.0\].*x2 > x1"),
        (lambda: coder.encode_boxes([BOX * torch.nan], [NAME], GRID), "must be finite"),
        (lambda: coder.encode_boxes([BOX], [NAME], GRID, background=0.6), "background <= foreground.*background 0.6"),
        (lambda: coder.encode_boxes([BOX], [NAME], GRID, forced="all"), "forced 'all'"),  # type: ignore[arg-type]
        (
            lambda: coder.encode_boxes([BOX], [NAME], GRID, ignored=[NAME > 0], ignored_overlap=50),
            r"a share of an anchor's area, in \(0, 1\], found 50",
        ),
        (
            lambda: coder.encode_boxes([BOX], [NAME], [torch.tensor([[8.0, 8, 4, 4]])]),
            r"found \[8.0, 8.0, 4.0, 4.0\]. Conv",
        ),
        (lambda: coder.encode_boxes([BOX], [NAME], [GRID[0] * torch.nan]), "anchors are x1, y1, x2, y2, finite"),
        (lambda: coder.decode_boxes(outputs([]), [*GRID[:4], GRID[4] * torch.inf]), "decode_boxes: anchors are x1, y1"),
        (lambda: coder.decode_boxes(outputs([])["levels"], GRID), "found 0 levels and 5 tensors"),
        (lambda: coder.decode_boxes(unlike(logits=0), GRID), "of the same images and classes.*in level 1"),
        (lambda: coder.decode_boxes(unlike(logits=2), GRID), "of the same images and classes.*in level 1"),
        (lambda: coder.decode_boxes(unlike(deltas=0), GRID), "of the same images and classes.*in level 1"),
        (lambda: coder.decode_boxes(outputs([]), GRID[:2]), "found 5 levels and 2 tensors"),
        (lambda: coder.decode_boxes(outputs([]), [level[1:] for level in GRID]), r"level 0 has \(2303, 4\) anchors"),
        (lambda: coder.decode_boxes(outputs([]), GRID, activation="tanh"), "activation is .* found 'tanh'"),  # type: ignore[arg-type]
        (lambda: coder.decode_boxes(outputs([]), GRID, num_candidates=0), "num_candidates is at least 1, found 0"),
        (lambda: coder.centered_anchors((64, 64), strides=(8,)), r"one side a stride.*strides \(8,\)"),
        (lambda: coder.centered_anchors((64, 0)), r"image_size is .* at least 1, found \(64, 0\)"),
    ],
)
def test_message(call, words):
    with pytest.raises(ValueError, match=words):
        call()
