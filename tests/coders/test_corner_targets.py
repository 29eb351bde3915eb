"""Boxes to targets of CornerNet, Squeeze and CenterNet: recorded numbers, hand computations, slow loops, edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import headwise as hw
from headwise.coders.corners import encode_corners
from tests.coders.recorded import dense, load
from tests.reference import corners as reference

RECORDED = {"cornernet": load("cornernet_targets"), "centernet": load("centernet_targets")}
CASES = [
    (system, case) for system, file in RECORDED.items() for case in dict.fromkeys(n.split("/")[0] for n in file.files)
]
POINTS = {"tl": "top_left", "br": "bottom_right", "ct": "center"}
SMALL: dict[str, Any] = {"image_size": (31, 47), "grid_size": (16, 24), "num_classes": 3}
EMPTY = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)


def encode(boxes, labels=None, **options):
    """One image with small maps."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return encode_corners([boxes], [labels], **(SMALL | options))


def random_boxes(generator, count, size):
    height, width = size
    corners = np.sort(generator.uniform(0, 1, (count, 2, 2)), axis=1) * [width, height]
    return corners.reshape(count, 4).astype(np.float32), generator.integers(0, 3, count)


def test_all_cases_are_there():
    assert len(CASES) == 9


@pytest.mark.parametrize(("system", "case"), CASES)
def test_recorded_targets(system, case):
    recorded = {
        name.removeprefix(f"{case}/"): RECORDED[system][name]
        for name in RECORDED[system].files
        if name.startswith(f"{case}/")
    }
    images = np.split(recorded["in/boxes"], np.cumsum(recorded["in/counts"])[:-1])
    targets = encode_corners(
        [each[:, :4] for each in images],
        [each[:, 4].astype(np.int64) - 1 for each in images],
        image_size=(511, 511),
        grid_size=tuple(recorded["out/tl_heat_shape"][2:].tolist()),
        num_classes=4,
        min_overlap=0.7 if case.startswith("centernet") else 0.3,
        legacy_radius=system == "centernet",
        legacy_clip=True,
        center=system == "centernet",
        gaussian=not case.startswith("no_bump"),
    )
    assert np.array_equal(targets["objects"].numpy(), recorded["out/mask"] == 1)
    points = [short for short in POINTS if f"out/{short}_heat_shape" in recorded]
    assert len(targets) == 1 + 3 * len(points) == 1 + 3 * (2 + (system == "centernet"))
    for short in points:
        name = POINTS[short]
        np.testing.assert_allclose(
            targets[f"{name}_heatmap"].numpy(), dense(recorded, f"out/{short}_heat"), rtol=0, atol=1e-5
        )
        assert np.array_equal(targets[f"{name}_index"].numpy(), recorded[f"out/{short}_ind"])
        assert np.array_equal(targets[f"{name}_offset"].numpy(), recorded[f"out/{short}_off"])


def test_by_hand():
    """A grid of half the picture: corners at cells (2, 1) and (10, 5), of a box of 8 x 4 cells and radius 0."""
    found = encode([[5, 3, 20, 10.5]], [2], image_size=(32, 48), min_overlap=0.7, center=True)
    assert found["top_left_index"][0, 0] == 1 * 24 + 2
    assert found["bottom_right_index"][0, 0] == 5 * 24 + 10
    assert found["center_index"][0, 0] == 3 * 24 + 6
    assert found["top_left_offset"][0, 0].tolist() == [0.5, 0.5]
    assert found["bottom_right_offset"][0, 0].tolist() == [0.0, 0.25]
    assert found["center_offset"][0, 0].tolist() == [0.25, 0.375]
    assert found["objects"][0].tolist() == [True] + [False] * 127
    for name, (y, x) in {"top_left": (1, 2), "bottom_right": (5, 10), "center": (3, 6)}.items():
        heat_map = found[f"{name}_heatmap"]
        assert heat_map.shape == (1, 3, 16, 24)
        assert heat_map.dtype == torch.float32
        assert heat_map.nonzero().tolist() == [[0, 2, y, x]]
        assert heat_map[0, 2, y, x] == 1.0


def test_bumps_by_hand():
    """8 x 8 cells, overlap 0.25: r = 2 (16 - 16 sqrt(1 / 4)) / 8 = 2, s = 5 / 6; centers s = 5 / 5."""
    found = encode([[10, 10, 26, 26]], image_size=(32, 48), min_overlap=0.25, center=True)
    row = [math.exp(-(d**2) / (2 * (5 / 6) ** 2)) for d in (2, 1, 0, 1, 2)]
    assert found["top_left_heatmap"][0, 0, 5].tolist() == pytest.approx([0, 0, 0, *row, *[0] * 16], abs=1e-6)
    row = [math.exp(-(d**2) / 2) for d in (2, 1, 0, 1, 2)]
    assert found["center_heatmap"][0, 0, 9].tolist() == pytest.approx([0] * 7 + row + [0] * 12, abs=1e-6)
    single = encode([[10, 10, 26, 26]], image_size=(32, 48), min_overlap=0.25, gaussian=False)
    assert single["top_left_heatmap"].sum() == single["bottom_right_heatmap"].sum() == 1


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.7]), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_slow_loops_agree(seed, min_overlap, legacy, center):
    generator = np.random.default_rng(seed)
    images = [random_boxes(generator, generator.integers(0, 5), SMALL["image_size"]) for _ in range(2)]
    boxes, labels = zip(*images, strict=True)
    found = encode_corners(boxes, labels, **SMALL, min_overlap=min_overlap, legacy_radius=legacy, center=center)
    maps, places = reference.encode(boxes, labels, (31, 47), (16, 24), 3, min_overlap, legacy, center)
    for name, expected in maps.items():
        np.testing.assert_allclose(found[f"{name}_heatmap"].numpy(), expected, rtol=0, atol=1e-6)
        for image, objects in enumerate(places):
            assert found["objects"][image].sum() == len(objects)
            for slot, placed in enumerate(objects):
                index, offset = placed[name]
                assert found[f"{name}_index"][image, slot] == index
                np.testing.assert_allclose(found[f"{name}_offset"][image, slot].numpy(), offset, rtol=0, atol=1e-6)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_cell_and_offset_give_the_corner_back(seed):
    boxes, labels = random_boxes(np.random.default_rng(seed), 8, (511, 511))
    found = encode_corners([boxes], [labels], image_size=(511, 511), grid_size=(128, 128), num_classes=3)
    for name, corners in (("top_left", boxes[:, :2]), ("bottom_right", boxes[:, 2:])):
        index, offset = found[f"{name}_index"][0, :8], found[f"{name}_offset"][0, :8]
        cells = torch.stack([index % 128, index // 128], 1)
        np.testing.assert_allclose(((cells + offset) * 511 / 128).numpy(), corners, rtol=0, atol=1e-4)


def test_the_cell_is_cut_in_float32():
    """Of 3.98437476 * 64 / 255 float64 keeps 0.99999994; float32, as published, has 1."""
    x = np.nextafter(np.float32(255 / 64), np.float32(0))
    assert int(float(x) * 64 / 255) == 0
    found = encode([[x, 0, 250, 250]], image_size=(255, 255), grid_size=(64, 64))
    assert found["top_left_index"][0, 0] == 1
    assert found["top_left_offset"][0, 0, 0] == 0


@pytest.mark.parametrize(("count", "slots"), [(0, 128), (1, 128), (128, 128), (129, 256), (500, 512)])
def test_e2_slots_grow_and_no_object_is_lost(count, slots):
    boxes, labels = random_boxes(np.random.default_rng(count), count, SMALL["image_size"])
    found = encode_corners([boxes, EMPTY[0]], [labels, EMPTY[1]], **SMALL)
    assert found["objects"].shape == (2, slots)
    assert found["objects"][0].sum() == count
    assert not found["objects"][1].any()
    assert found["top_left_offset"].shape == (2, slots, 2)
    for name in ("top_left", "bottom_right"):
        peaks = found[f"{name}_heatmap"][0].flatten(1)[torch.from_numpy(labels), found[f"{name}_index"][0, :count]]
        assert (peaks == 1).all()
        assert not found[f"{name}_index"][0, count:].any()
        assert not found[f"{name}_offset"][0, count:].any()
    assert not found["top_left_heatmap"][1].any()


def test_a_smaller_number_of_slots():
    boxes, labels = random_boxes(np.random.default_rng(0), 7, SMALL["image_size"])
    assert encode_corners([boxes], [labels], **SMALL, num_slots=3)["objects"].shape == (1, 9)


def test_boxes_without_area_in_the_picture_are_left_out():
    kept = [3, 4, 20, 30]
    outside = [[60, 4, 90, 10], [-9, 4, -1, 10], [3, 40, 9, 50], [5, 5, 5, 9], [5, 5, 9, 5]]
    found, alone = encode([*outside, kept]), encode([kept])
    for name, expected in alone.items():
        assert torch.equal(found[name], expected)


def test_boxes_are_clipped_to_the_edge():
    found = encode([[-5, -6, 99, 99]])
    assert found["top_left_index"][0, 0] == 0
    assert found["top_left_offset"][0, 0].tolist() == [0, 0]
    assert found["bottom_right_index"][0, 0] == 16 * 24 - 1
    assert found["bottom_right_offset"][0, 0].tolist() == [1, 1]


def test_published_clipping_moves_the_edge_by_a_pixel():
    found = encode([[-5, -6, 99, 99]], legacy_clip=True)
    right, lower = 46 * 24 / 47, 30 * 16 / 31
    assert found["bottom_right_index"][0, 0] == int(lower) * 24 + int(right)
    assert found["bottom_right_offset"][0, 0].tolist() == pytest.approx([right % 1, lower % 1], abs=1e-5)


def test_e3_crowds_are_no_objects():
    boxes = [[3, 4, 20, 30], [1, 1, 40, 30], [5, 6, 9, 12]]
    found, alone = encode(boxes, ignored=[np.array([False, True, False])]), encode([boxes[0], boxes[2]])
    for name, expected in alone.items():
        assert torch.equal(found[name], expected)
    assert encode(boxes)["objects"].sum() == 3


def test_arrays_of_other_dtypes_are_read_alike():
    expected = encode([[3, 4, 20, 30]], [1])
    for boxes, labels in (
        (np.array([[3, 4, 20, 30]], np.float64), np.array([1], np.int32)),
        (torch.tensor([[3, 4, 20, 30]]), torch.tensor([1], dtype=torch.uint8)),
        (torch.tensor([[3, 4, 20, 30]], dtype=torch.float16), torch.tensor([1])),
    ):
        found = encode_corners([boxes], [labels], **SMALL)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_earlier_targets_are_drawn_into():
    earlier = encode([[3, 4, 20, 30]])
    found = encode([[1, 2, 9, 10]], out=earlier)
    assert found["top_left_heatmap"] is earlier["top_left_heatmap"]
    expected = encode([[1, 2, 9, 10]])
    assert all(torch.equal(found[name], expected[name]) for name in expected)


GOOD = [1.0, 2.0, 9.0, 9.0]


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([[GOOD], [GOOD, [1, math.nan, 9, 9]]], [[0], [0, 0]], r"image 1, box 1: coordinates are finite numbers.*nan"),
        ([[GOOD], [[1, 2, math.inf, 9]]], [[0], [0]], r"image 1, box 0: coordinates are finite"),
        ([[GOOD, GOOD, [9, 9, 4, 12]]], [[0, 1, 2]], r"image 0, box 2: a box is x1, y1, x2, y2.*width, height first"),
        ([[GOOD], [GOOD]], [[0], [3]], r"image 1, box 0: labels are 0..2, found .* label 3.*map them"),
        ([[GOOD], [GOOD]], [[-1], [0]], r"image 0, box 0: labels are 0..2, found .* label -1"),
        ([[GOOD], [GOOD]], [[1], [0.0]], r"image 1: labels are integers, found torch.float32"),
        ([[GOOD], [GOOD]], [[1], [True]], r"image 1: labels are integers, found torch.bool"),
        ([[[True] * 4]], [[1]], r"image 0: boxes are real numbers, found torch.bool"),
        ([[GOOD], [GOOD]], [[1], [1, 1]], r"image 1: boxes are \(n, 4\) and labels \(n,\), found \(1, 4\) and \(2,\)"),
        ([[[1.0, 2.0, 3.0]]], [[1]], r"image 0: boxes are \(n, 4\)"),
        ([[GOOD]], [[1], [1]], r"boxes has 1 images, labels has 2"),
        ([], [], r"at least one"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(boxes, labels, message):
    with pytest.raises(ValueError, match=message):
        encode_corners([torch.tensor(each) for each in boxes], [torch.tensor(each) for each in labels], **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_slots": 0}, "num_slots is at least 1, found 0"),
        ({"num_classes": 0}, "num_classes is at least 1"),
        ({"image_size": (0, 9)}, r"image_size is \(height, width\)"),
        ({"grid_size": (4, 0)}, r"grid_size is \(height, width\)"),
        ({"min_overlap": 1.0}, "min_overlap is in"),
        ({"ignored": [torch.tensor([True, False])]}, r"image 0 has 1 boxes and a ignored of shape \(2,\)"),
        ({"ignored": []}, "found 0 images for 1"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        encode([GOOD], **options)


@pytest.mark.parametrize(
    ("preset", "center"), [("cornernet", False), ("cornernet_squeeze", False), ("centernet", True)]
)
@pytest.mark.parametrize("as_published", [False, True])
def test_the_presets_take_them(preset, center, as_published):
    boxes, labels = zip(
        *(random_boxes(np.random.default_rng(seed), 4, SMALL["image_size"]) for seed in (1, 2)), strict=True
    )
    targets = encode_corners(boxes, labels, **SMALL, center=center)
    torch.manual_seed(0)
    points = ("top_left", "bottom_right", "center")[: 3 if center else 2]
    channels = {f"{point}_heatmap": 3 for point in points} | {f"{point}_offset": 2 for point in points}
    channels |= {f"{point}_embedding": 1 for point in points[:2]}
    stacks = [{name: torch.randn(2, c, 16, 24, requires_grad=True) for name, c in channels.items()} for _ in range(2)]
    breakdown = getattr(hw.presets, preset)(2, as_published=as_published)({"stacks": stacks}, targets)
    assert all(torch.isfinite(entry.value) and entry.value > 0 for entry in breakdown.values())
    breakdown.total.backward()
    for stack in stacks:
        for name, output in stack.items():
            assert output.grad is not None, name
            assert output.grad.isfinite().all(), name
            assert output.grad.any(), name
