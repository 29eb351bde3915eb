"""Boxes in crops to CornerNet-Saccade's targets: recorded numbers, hand computations, slow loops, edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import headwise as hw
from headwise.coders.corners import encode_corners, encode_saccade
from tests.coders.recorded import dense, load
from tests.reference import corners as reference

RECORDED = load("saccade_targets")
CROP: dict[str, Any] = {"image_size": (255, 255), "grid_size": (64, 64), "num_classes": 4}
RANGES = ((16, 96, 256), (8, 32, 96), (4, 0, 32))
CORNERS = {"tl": "top_left", "br": "bottom_right"}


def encode(boxes, labels=None, **options):
    """One crop."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return encode_saccade([boxes], [labels], **(CROP | options))


def valid(targets):
    return [targets["top_left_valid"], targets["bottom_right_valid"]]


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_recorded_targets(case):
    recorded = {name.removeprefix(f"{case}/"): RECORDED[name] for name in RECORDED.files if name.startswith(f"{case}/")}
    crops = [recorded[f"in/dets_{i}"] for i in range(2)]
    targets = encode_saccade(
        [each[:, :4] for each in crops],
        [each[:, 4].astype(np.int64) - 1 for each in crops],
        kept=[recorded[f"in/kept_{i}"] for i in range(2)],
        legacy_ranges=True,
        **CROP,
    )
    assert np.array_equal(targets["objects"].numpy(), recorded["out/mask"] == 1)
    for short, name in CORNERS.items():
        heat_map = targets[f"{name}_heatmap"].numpy()
        np.testing.assert_allclose(heat_map, dense(recorded, f"out/{short}_heat"), rtol=0, atol=1e-5)
        assert np.array_equal(targets[f"{name}_index"].numpy(), recorded[f"out/{short}_ind"])
        np.testing.assert_allclose(targets[f"{name}_offset"].numpy(), recorded[f"out/{short}_off"], rtol=0, atol=1e-5)
        assert np.array_equal(targets[f"{name}_valid"].numpy(), dense(recorded, f"out/{short}_invalid") == 0)
    for i in range(3):
        assert targets["attention"][i].dtype == torch.float32
        assert np.array_equal(targets["attention"][i].numpy(), recorded[f"out/att_{i}"])


@pytest.mark.parametrize("i", range(9))
def test_recorded_attention_at_the_ends_of_ranges(i):
    box = RECORDED["att_boundaries/in/dets"][i, :4]
    targets = encode(box, legacy_ranges=True)
    assert [float(each.sum()) for each in targets["attention"]] == RECORDED[f"att_boundaries/out/det{i}"].tolist()


@pytest.mark.parametrize(
    ("side", "published", "default"), [(31, "s", "s"), (32, "ms", "m"), (96, "lm", "l"), (97, "l", "l")]
)
def test_e4_a_side_at_the_end_of_a_range(side, published, default):
    for legacy, expected in ((True, published), (False, default)):
        maps = encode([[20, 20, 20 + side, 40]], legacy_ranges=legacy)["attention"]
        assert "".join(name for name, each in zip("lms", maps, strict=True) if each.any()) == expected


@given(st.floats(0.5, 255), st.floats(0.5, 255))
def test_every_object_is_looked_for_once(width, height):
    maps = encode([[0, 0, width, height]])["attention"]
    assert sum(float(each.sum()) for each in maps) == 1


def test_attention_by_hand():
    """Centers (50, 30), (150, 120) and (200.5, 8) in cells of 8, 16 and 4 pixels."""
    maps = encode([[20, 20, 80, 40], [100, 20, 200, 220], [200, 2, 201, 14]])["attention"]
    assert [tuple(each.shape) for each in maps] == [(1, 1, 16, 16), (1, 1, 32, 32), (1, 1, 64, 64)]
    assert [each.nonzero().tolist() for each in maps] == [[[0, 0, 7, 9]], [[0, 0, 3, 6]], [[0, 0, 2, 50]]]


def test_what_takes_part_by_hand():
    """More than half inside, and 16 whole pixels between the whole pixels of two sides."""
    boxes = [[10, 10, 26, 12], [10.9, 40, 26.9, 42], [10, 70, 25.9, 72], [10.9, 100, 26, 102]]
    targets = encode(boxes, [0, 1, 2, 3])
    assert targets["objects"].sum() == 3
    assert targets["top_left_index"][0, :3].tolist() == [2 * 64 + 2, 10 * 64 + 2, 25 * 64 + 2]
    for each in valid(targets):
        assert each[0, [0, 1, 3]].all()
        assert (~each[0, 2]).sum() == 1
    half = encode(boxes[0], kept=[[0.5]])
    assert not half["objects"].any()
    assert encode(boxes[0], kept=[[0.5001]])["objects"].sum() == 1
    assert encode([[10, 10, 25, 12]], min_side=15)["objects"].sum() == 1


def test_shares_are_found_by_clipping():
    left = encode([[-60, 20, 100, 60], [-100, 20, 60, 60]], [0, 1])
    assert left["objects"].sum() == 1
    assert left["top_left_index"][0, 0] == 5 * 64
    given = encode([[0, 20, 100, 60], [0, 20, 60, 60]], [0, 1], kept=[torch.tensor([100 / 160, 60 / 160])])
    for name, expected in given.items():
        for a, b in zip(left[name], expected, strict=True):
            assert torch.equal(a, b), name


def test_an_object_that_takes_no_part_is_not_counted_near_its_corners():
    """60 x 60 pixels are 16 x 16 cells: radius 8 (1 - sqrt(1 / 2)) = 2 for an overlap of 0.5."""
    targets = encode([[100, 100, 160, 160]], [2], kept=[[0.2]])
    assert not targets["objects"].any()
    assert not targets["top_left_heatmap"].any()
    for each, cell in zip(valid(targets), (25, 40), strict=True):
        invalid = (~each).nonzero()
        assert len(invalid) == 25
        assert invalid[0].tolist() == [0, 2, cell - 2, cell - 2]
        assert invalid[-1].tolist() == [0, 2, cell + 2, cell + 2]
    assert sum(float(each.sum()) for each in targets["attention"]) == 1


def test_the_same_objects_as_cornernet():
    boxes, labels = [[20, 30, 90, 200], [5, 5, 250, 60]], [1, 3]
    found = encode(boxes, labels)
    expected = encode_corners([torch.tensor(boxes)], [torch.tensor(labels)], min_overlap=0.5, **CROP)
    for name, each in expected.items():
        assert torch.equal(found[name], each)
    assert all(each.all() for each in valid(found))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_slow_loops_agree(seed):
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.uniform(0, 64, (5, 2, 2)), axis=1).reshape(5, 4).astype(np.float32)
    labels, kept = generator.integers(0, 2, 5), generator.uniform(0, 1, 5).astype(np.float32)
    sizes: dict[str, Any] = {"image_size": (64, 64), "grid_size": (16, 16), "num_classes": 2}
    found = encode_saccade([corners], [labels], kept=[kept], legacy_ranges=True, **sizes)
    sides = [max(int(y2) - int(y1), int(x2) - int(x1)) for x1, y1, x2, y2 in corners]
    part = np.array([share > 0.5 and side >= 16 for share, side in zip(kept, sides, strict=True)])
    options = (64, 64), (16, 16), 2, 0.5
    heat_maps, _ = reference.encode([corners[part]], [labels[part]], *options)
    invalid, _ = reference.encode([corners[~part]], [labels[~part]], *options)
    for name in ("top_left", "bottom_right"):
        np.testing.assert_allclose(found[f"{name}_heatmap"].numpy(), heat_maps[name], rtol=0, atol=1e-6)
        assert np.array_equal(found[f"{name}_valid"].numpy(), invalid[name] == 0)
    for (stride, low, high), each in zip(RANGES, found["attention"], strict=True):
        expected = np.zeros(each.shape)
        for x1, y1, x2, y2 in corners:
            if low <= max(x2 - x1, y2 - y1) <= high:
                expected[0, 0, int((y1 + y2) / 2 / stride), int((x1 + x2) / 2 / stride)] = 1
        assert np.array_equal(each.numpy(), expected)


def test_e3_crowds_do_not_count_but_their_objects_do():
    """The crowd covers cells 5..40 of its class in both directions, and a whole object."""
    person, crowd = [40, 40, 100, 100], [20, 20, 160, 160]
    targets = encode([person, crowd], [1, 1], ignored=[[False, True]])
    assert targets["objects"].sum() == 1
    alone = encode([person], [1])
    for name in ("top_left", "bottom_right"):
        assert torch.equal(targets[f"{name}_heatmap"], alone[f"{name}_heatmap"])
        expected = torch.ones(1, 4, 64, 64, dtype=torch.bool)
        expected[0, 1, 5:41, 5:41] = False
        expected |= alone[f"{name}_heatmap"] == 1
        assert torch.equal(targets[f"{name}_valid"], expected)
        assert targets[f"{name}_valid"][0, 1].logical_not().sum() == 36 * 36 - 1
    for found, expected in zip(targets["attention"], alone["attention"], strict=True):
        assert torch.equal(found, expected)


def test_no_boxes_and_boxes_outside():
    for boxes in ([], [[300, 10, 400, 20]], [[10, 10, 10, 60]]):
        targets = encode(boxes)
        assert not targets["objects"].any()
        assert all(each.all() for each in valid(targets))
        assert not any(each.any() for each in targets["attention"])


@pytest.mark.parametrize(("count", "slots"), [(1, 128), (128, 128), (129, 256), (500, 512)])
def test_slots_grow(count, slots):
    first = np.random.default_rng(0).uniform(0, 200, (count, 2))
    boxes = np.concatenate([first, first + 40], 1)
    targets = encode_saccade([boxes], [np.zeros(count, np.int64)], **CROP)
    assert targets["objects"].shape == (1, slots)
    assert targets["objects"].sum() == count


def test_a_center_at_the_very_edge():
    """Of a box thinner than the spacing of float32 there, it rounds to the edge."""
    x = np.nextafter(np.float32(256), np.float32(0))
    targets = encode([[x, 0, 256, 255]], image_size=(256, 256))
    assert targets["attention"][0].nonzero().tolist() == [[0, 0, 7, 15]]


def test_other_sizes_of_crop_and_maps():
    options: dict[str, Any] = {"attention_strides": (8, 4), "attention_ranges": ((48, math.inf), (0, 48))}
    targets = encode([[3, 4, 60, 100]], image_size=(127, 100), grid_size=(32, 25), **options)
    assert [tuple(each.shape) for each in targets["attention"]] == [(1, 1, 16, 13), (1, 1, 32, 25)]
    assert targets["attention"][0].nonzero().tolist() == [[0, 0, 6, 3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kept": [[0.1, math.nan]]}, "image 0, box 1: a share that is kept is a number of at least 0, found nan"),
        ({"kept": [[-0.1, 1]]}, "image 0, box 0: a share"),
        ({"kept": [[1.0]]}, r"image 0 has 2 boxes and a kept of shape \(1,\)"),
        ({"min_kept": 1.0}, r"min_kept is in \[0, 1\)"),
        ({"min_side": -1}, "min_side is at least 0"),
        ({"attention_strides": (16, 8)}, "a stride and a range per map, found 2 and 3"),
        ({"attention_strides": (16, 8, 0)}, "attention_strides is at least 1, found 0"),
        ({"attention_ranges": ((0, 9), (9, 9), (9, 20))}, "low < high"),
        ({"num_slots": 0}, "num_slots is at least 1"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        encode([[1, 2, 50, 60], [1, 2, 90, 90]], **options)


@pytest.mark.parametrize("as_published", [False, True])
def test_the_preset_takes_them(as_published):
    boxes = [
        np.array([[20, 30, 90, 200], [5, 5, 250, 60], [100, 100, 110, 110]]),
        np.array([[10, 10, 60, 80], [1, 1, 50, 200]]),
    ]
    targets = encode_saccade(boxes, [np.array([1, 3, 1]), np.array([0, 2])], **CROP)
    torch.manual_seed(0)
    channels = {"heatmap": 4, "embedding": 1, "offset": 2}
    stacks: list[dict[str, Any]] = []
    for _ in range(2):
        stack: dict[str, Any] = {
            f"{p}_{k}": torch.randn(2, c, 64, 64, requires_grad=True)
            for p in CORNERS.values()
            for k, c in channels.items()
        }
        stack["attention"] = [torch.randn(2, 1, side, side, requires_grad=True) for side in (16, 32, 64)]
        stacks.append(stack)
    breakdown = hw.presets.cornernet_saccade(2, as_published=as_published)({"stacks": stacks}, targets)
    assert all(torch.isfinite(entry.value) and entry.value > 0 for entry in breakdown.values())
    breakdown.total.backward()
    for stack in stacks:
        for output in [*stack.pop("attention"), *stack.values()]:
            assert output.grad.isfinite().all()
            assert output.grad.any()
    hidden = ~targets["top_left_valid"]
    assert hidden.any()
    assert not stacks[0]["top_left_heatmap"].grad[hidden].any()
