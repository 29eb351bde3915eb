"""The radius that keeps an overlap, and bumps, against recorded numbers, hand computations and slow references."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise.coders.heatmaps import cells_of_windows, draw_gaussians, gaussian_radius
from tests.coders.recorded import load
from tests.reference import corners as reference

RECORDED = load("gaussian")
OVERLAPS = st.floats(0.05, 0.95)
SIDES = st.floats(0.5, 600)


def overlap(box, other):
    """Intersection over union."""
    width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
    area = sum((each[2] - each[0]) * (each[3] - each[1]) for each in (box, other))
    return width * height / (area - width * height)


def worst_overlap(height, width, radius):
    """The least overlap with a box whose four sides are off by the radius either way, or not at all."""
    box = (0.0, 0.0, width, height)
    moved = [
        tuple(a + radius * b for a, b in zip(box, step, strict=True))
        for step in itertools.product((-1, 0, 1), repeat=4)
    ]
    return min(overlap(box, each) if each[0] < each[2] and each[1] < each[3] else 0.0 for each in moved)


@pytest.mark.parametrize("min_overlap", [0.3, 0.5, 0.7])
@pytest.mark.parametrize(("name", "legacy"), [("fixed", False), ("buggy", True)])
def test_recorded_radii(min_overlap, name, legacy):
    height, width = torch.from_numpy(RECORDED["radius/in/hw"]).unbind(1)
    found = gaussian_radius(height, width, min_overlap, legacy)
    expected = RECORDED[f"radius/out/{name}_iou{min_overlap}"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=0)
    assert (found.long().numpy() == expected.astype(int)).all()


@pytest.mark.parametrize(
    ("height", "width", "min_overlap", "right", "legacy"),
    [(10, 10, 0.7, 0, 2), (10, 10, 0.3, 2, 4), (40, 40, 0.7, 3, 10), (16, 64, 0.7, 2, 7), (128, 128, 0.3, 28, 63)],
)
def test_e1_only_the_right_radius_keeps_the_overlap(height, width, min_overlap, right, legacy):
    found = gaussian_radius(height, width, min_overlap)
    assert isinstance(found, float)
    assert int(found) == right
    assert worst_overlap(height, width, found) == pytest.approx(min_overlap, abs=1e-9)
    published = gaussian_radius(height, width, min_overlap, legacy=True)
    assert int(published) == legacy
    assert worst_overlap(height, width, published) < 0.3 * min_overlap + 1e-3


def test_by_hand():
    """4 r^2 - 2 * 8 r + 0.75 * 16 = 0 for a square of 4: r = (16 - sqrt(256 - 192)) / 8 = 1."""
    assert gaussian_radius(4.0, 4.0, 0.25) == 1.0
    # o s = 2, sqrt(4 + 4 * 0.25 * 0.75 * 16) - 2 = 2.
    assert gaussian_radius(4.0, 4.0, 0.25, legacy=True) == 2.0
    assert gaussian_radius(0.0, 9.0, 0.5) == 0.0


@given(SIDES, SIDES, OVERLAPS, st.booleans())
def test_it_is_the_least_of_three_roots(height, width, min_overlap, legacy):
    found = gaussian_radius(height, width, min_overlap, legacy)
    assert found == pytest.approx(reference.radius(height, width, min_overlap, legacy), rel=1e-7, abs=1e-9)


@given(SIDES, SIDES, OVERLAPS)
def test_the_overlap_is_kept_and_no_larger_radius_keeps_it(height, width, min_overlap):
    radius = gaussian_radius(height, width, min_overlap)
    assert worst_overlap(height, width, radius) >= min_overlap - 1e-6
    assert worst_overlap(height, width, 1.01 * radius + 1e-3) < min_overlap


def test_numbers_and_tensors_that_broadcast():
    height, width = torch.tensor([[1], [30]]), torch.tensor([5.0, 7.0, 60.0])
    found = gaussian_radius(height, width, 0.4)
    assert found.shape == (2, 3)
    assert found.dtype == torch.float64
    assert found[1, 2].item() == gaussian_radius(30, 60, 0.4)
    assert torch.equal(gaussian_radius(30, width, 0.4), found[1])


def test_the_whole_radii_of_all_boxes_are_the_authors():
    sides = range(1, 65)
    table = torch.tensor(list(itertools.product(sides, sides)))
    for min_overlap in (0.3, 0.5, 0.7):
        found = gaussian_radius(table[:, 0], table[:, 1], min_overlap).long()
        assert found.tolist() == [int(_as_written(height, width, min_overlap)) for height, width in table.tolist()]


def _as_written(height, width, min_overlap):
    total = 2 * (height + width)
    return (total - math.sqrt(total**2 - 16 * ((1 - min_overlap) * width * height))) / 8


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, math.nan])
def test_an_overlap_out_of_range(value):
    with pytest.raises(ValueError, match=r"min_overlap is in \(0, 1\)"):
        gaussian_radius(3.0, 3.0, value)


@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_sizes_that_are_none(value):
    with pytest.raises(ValueError, match="height and width are at least 0"):
        gaussian_radius(torch.tensor([3.0, value]), 3.0, 0.5)


def draw(size, *bumps, num_planes=1, sigmas=6.0, out=None):
    """One set of maps, from rows of plane, x, y, radius."""
    table = torch.tensor(bumps, dtype=torch.int64).reshape(-1, 4)
    columns = [table[:, 0]], [table[:, 1:3]], [table[:, 3]]
    shape = (1, num_planes, *size)
    (maps,) = draw_gaussians(shape, *columns, sigmas_per_diameter=[sigmas], out=None if out is None else [out])
    return maps


@pytest.mark.parametrize(("x", "y", "radius"), [(10, 10, 2), (0, 0, 2), (19, 15, 5)])
@pytest.mark.parametrize("sigmas", [5, 6])
def test_recorded_bumps(x, y, radius, sigmas):
    expected = RECORDED[f"draw_r{radius}_x{x}_y{y}/out/delte{sigmas}"]
    found = draw(expected.shape, (0, x, y, radius), sigmas=sigmas)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=0, atol=1e-6)


BUMPS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 6), st.integers(0, 9)), max_size=6)


@given(BUMPS, st.sampled_from([5.0, 6.0]))
@settings(max_examples=60)
def test_a_cell_holds_the_highest_bump_of_its_map(bumps, sigmas):
    expected = np.zeros((2, 7, 9))
    for plane, x, y, radius in bumps:
        expected[plane] = np.maximum(expected[plane], reference.bump((7, 9), x, y, radius, sigmas))
    found = draw((7, 9), *bumps, num_planes=2, sigmas=sigmas)[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
    for plane, x, y, _ in bumps:
        assert found[plane, y, x] == 1.0


def test_corners_of_the_widest_bump_are_not_0():
    """What the authors set to 0, below the float's epsilon, there is never: the least is above exp(-9)."""
    found = draw((81, 81), (0, 40, 40, 40))
    assert math.exp(-9) < found.min().item() == pytest.approx(math.exp(-((40 * 6 / 81) ** 2)), rel=1e-5)
    assert draw((5, 5), (0, 2, 3, 0)).sum() == 1


def test_sets_are_drawn_apart():
    planes, radii = [torch.tensor([0]), torch.tensor([1, 0])], [torch.tensor([1]), torch.tensor([2, 0])]
    centers = [torch.tensor([[3, 3]]), torch.tensor([[1, 2], [6, 6]])]
    first, second = draw_gaussians((1, 2, 8, 8), planes, centers, radii, sigmas_per_diameter=[6.0, 5.0])
    assert torch.equal(first, draw((8, 8), (0, 3, 3, 1), num_planes=2))
    assert torch.equal(second, draw((8, 8), (1, 1, 2, 2), (0, 6, 6, 0), num_planes=2, sigmas=5.0))


def test_maps_are_drawn_into_again():
    maps = draw((9, 9), (0, 4, 4, 3))
    again = draw((9, 9), (0, 0, 8, 2), out=maps)
    assert again is maps
    assert torch.equal(again, draw((9, 9), (0, 0, 8, 2)))


def test_what_others_wrote_is_cleared():
    maps = draw((9, 9), (0, 4, 4, 1))
    maps[0, 0, 8, 8] = 0.5
    assert torch.equal(draw((9, 9), (0, 1, 1, 1), out=maps), draw((9, 9), (0, 1, 1, 1)))
    foreign = torch.full((1, 1, 9, 9), 0.5)
    assert torch.equal(draw((9, 9), (0, 1, 1, 1), out=foreign), draw((9, 9), (0, 1, 1, 1)))


def test_maps_of_another_shape_are_left_alone():
    maps = draw((9, 9), (0, 4, 4, 1))
    kept = maps.clone()
    assert draw((8, 9), (0, 4, 4, 1), out=maps).shape == (1, 1, 8, 9)
    assert torch.equal(maps, kept)


def test_maps_that_a_backward_pass_needs_are_not_changed_unnoticed():
    maps = draw((9, 9), (0, 4, 4, 1))
    output = torch.ones_like(maps, requires_grad=True)
    loss = (output * maps).sum()
    draw((9, 9), (0, 1, 1, 1), out=maps)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_cells_of_windows():
    first, last = torch.tensor([[1, 0], [3, 2]]), torch.tensor([[2, 1], [3, 2]])
    found = cells_of_windows(torch.tensor([0, 1]), first, last, (3, 4))
    assert found.tolist() == [1, 2, 5, 6, 12 + 11]
    none = torch.zeros((0, 2), dtype=torch.int64)
    assert cells_of_windows(none[:, 0], none, none, (3, 4)).tolist() == []
