import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise.coders.snakes import encode_snakes
from tests.coders.words import arc_outline, words
from tests.reference.snakes import center_line

BAR = np.array([[20.0, 20], [80, 20], [80, 40], [20, 40]])


def encode(polygon, size=128, **options):
    targets = encode_snakes([[polygon]], [[False]], size=size, **options)
    return {name: value[0] for name, value in targets.items()}


def direction(targets):
    line = targets["center_line"]
    return targets["cos"][line].mean().item(), targets["sin"][line].mean().item()


def regular(num, radius=40.0, center=64.0):
    angles = 2 * np.pi * np.arange(num) / num
    return np.stack([center + radius * np.cos(angles), center + radius * np.sin(angles)], 1)


def test_a_bar_by_hand():
    # Sixteen discs at x = 20, 24, ..., 80 of radius 10; parts 1..13 cover x in [24, 76], y in [27, 33].
    targets = encode(BAR)
    expected = torch.zeros(128, 128, dtype=torch.bool)
    expected[27:34, 24:77] = True
    assert torch.equal(targets["center_line"], expected)
    assert torch.equal(targets["radius"], 10.0 * expected)
    assert torch.equal(targets["cos"], 1.0 * expected)
    assert torch.equal(targets["sin"], 0.0 * expected)
    expected[20:41, 20:81] = True
    assert torch.equal(targets["text_region"], expected)
    assert targets["valid"].all()
    types = {name: value.dtype for name, value in targets.items()}
    assert types == {
        **dict.fromkeys(("text_region", "center_line", "valid"), torch.bool),
        **dict.fromkeys(("sin", "cos", "radius"), torch.float32),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("num", "expand", "shrink"), [(2, 0.3, 1), (3, 0.5, 0), (9, 0.2, 3)])
def test_center_line_equals_the_slow_reference(seed, num, expand, shrink):
    random = np.random.default_rng(seed)
    word = arc_outline(60, 18, random.uniform(-1.2, 1.2), random.uniform(-1, 1), num, (48, 48))
    word += random.uniform(-0.7, 0.7, word.shape)
    targets = encode(word, 96, expand=expand, shrink=shrink)
    first, second = word[:num].tolist(), word[num:][::-1].tolist()
    expected = center_line(first, second, 96, expand=expand, shrink=shrink)
    assert {(x, y) for y, x in targets["center_line"].nonzero().tolist()} == set(expected)
    for (x, y), values in expected.items():
        found = [targets[name][y, x].item() for name in ("sin", "cos", "radius")]
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(word=words, shift=st.integers(0, 23), mirror=st.booleans())
def test_targets_do_not_depend_on_the_vertex_order(word, shift, mirror):
    other = np.roll(word[::-1] if mirror else word, shift, axis=0)
    targets, others = encode(word, 256), encode(other, 256)
    assert all(torch.equal(targets[name], others[name]) for name in targets)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(word=words)
def test_geometry_on_the_line_is_a_unit_direction_in_reading_order(word):
    targets = encode(word, 256)
    line = targets["center_line"]
    assert line.any()
    assert (targets["text_region"] | ~line).all()
    norm = torch.hypot(targets["sin"], targets["cos"])
    assert torch.allclose(norm[line], torch.ones(()), atol=1e-6)
    assert (targets["radius"][line] > 0).all()
    assert all((targets[name][~line] == 0).all() for name in ("sin", "cos", "radius"))
    cos, sin = direction(targets)
    assert cos * np.cos(np.pi / 12) + sin * np.sin(np.pi / 12) > 0


@pytest.mark.parametrize(
    ("angle", "expected"), [(0, 0), (180, 0), (60, 60), (-60, -60), (90, 90), (-90, 90), (-80, 100)]
)
def test_reading_direction(angle, expected):
    targets = encode(arc_outline(80, 20, 0, np.radians(angle), 4), 256)
    cos, sin = direction(targets)
    assert np.degrees(np.arctan2(sin, cos)) == pytest.approx(expected, abs=0.1)


def test_t9_published_direction_follows_the_first_vertex():
    rolled = np.roll(BAR, 2, axis=0)
    assert direction(encode(BAR, as_published=True)) == pytest.approx((-1, 0), abs=1e-6)
    assert direction(encode(rolled, as_published=True)) == pytest.approx((1, 0), abs=1e-6)
    assert direction(encode(BAR)) == direction(encode(rolled)) == pytest.approx((1, 0), abs=1e-6)
    assert direction(encode(BAR, as_published=True, canonical_direction=True))[0] == pytest.approx(1)


def test_t10_regular_hexagon():
    hexagon = np.array([[44.0, 94], [24, 64], [44, 34], [84, 34], [104, 64], [84, 94]])
    with pytest.raises(ValueError, match="image 0, polygon 0: the outline has no two separate ends by the published"):
        encode(hexagon, as_published=True)
    targets = encode(hexagon)
    assert direction(targets) == pytest.approx((0.9, 0.4), abs=0.1)
    assert encode(hexagon, as_published=True, published_ends=False)["center_line"].any()


@pytest.mark.parametrize("num", [3, 4, 5, 6, 7, 8, 12, 20])
def test_regular_polygons_have_a_line_through_their_middle(num):
    targets = encode(regular(num))
    line = targets["center_line"]
    assert line[60:69, 60:69].any()
    assert direction(targets)[0] > 0.7
    assert 20 < targets["radius"].max() <= 40


def test_t10_triangle_has_its_apex_for_an_end():
    triangle = np.array([[20.0, 40], [20, 60], [100, 50]])
    with pytest.raises(ValueError, match="no two separate ends"):
        encode(triangle, as_published=True)
    targets = encode(triangle)
    assert direction(targets) == pytest.approx((1, 0), abs=1e-6)
    radius = targets["radius"][50]
    assert radius[30] > radius[60] > radius[80] > 0


def test_t10_repeated_points_change_nothing():
    repeated = np.repeat(BAR, [1, 3, 1, 2], axis=0)
    targets, others = encode(BAR), encode(repeated)
    assert all(torch.equal(targets[name], others[name]) for name in targets)


def test_t10_four_equal_points_are_refused():
    with pytest.raises(ValueError, match=r"polygon 0: the outline has no area: its 4 vertices .* Remove the outline"):
        encode(np.full((4, 2), 30.0))


def test_t10_a_tie_reads_level():
    square = np.array([[20.0, 20], [60, 20], [60, 60], [20, 60]])
    assert direction(encode(square)) == direction(encode(np.roll(square, 1, axis=0))) == (1, 0)
    turned = encode(np.roll(square, 1, axis=0), as_published=True)
    assert abs(direction(turned)[1]) == 1


def test_a_finely_drawn_outline_keeps_its_shape():
    fine, coarse = (arc_outline(150, 20, 1.2, 0, num) for num in (60, 16))
    published = encode(fine, 256, as_published=True)
    assert published["text_region"].sum() < 0.2 * encode(coarse, 256)["text_region"].sum()
    targets = encode(fine, 256)
    assert targets["text_region"].sum() == pytest.approx(150 * 20, rel=0.1)
    assert targets["radius"][targets["center_line"]].mean() == pytest.approx(10, rel=0.05)


def test_t11_coordinates_stay_real():
    bar = BAR + np.array([[0.7, 0.7], [0.7, 0.7], [0.7, 0.0], [0.7, 0.0]])
    assert encode(bar)["radius"].max() == pytest.approx((20 - 0.7) / 2)
    published = encode(bar, as_published=True)
    truncated = encode(np.trunc(bar), as_published=True)
    assert published["radius"].max() == 10
    assert all(torch.equal(published[name], truncated[name]) for name in published)
    kept = encode(bar, as_published=True, integer_points=False)
    assert kept["radius"].max() == pytest.approx((20 - 0.7) / 2)


def test_t6_discs_of_radius_zero_are_dropped():
    flat = np.array([[20.0, 30], [100, 30], [100, 30], [20, 30]])
    published = encode(flat, as_published=True)
    assert (published["radius"][published["center_line"]] == 0).any()
    wedge = np.array([[20.0, 28], [20, 32], [100, 30], [100, 30]])
    targets = encode(wedge)
    assert targets["radius"][targets["center_line"]].min() >= 0.5
    with pytest.raises(ValueError, match="has no area"):
        encode(flat)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(word=words, left=st.integers(-40, 90), top=st.integers(-40, 90))
def test_outside_is_cut_off(word, left, top):
    word = np.round(word * 64) / 64
    whole = encode(word + 100, 456)
    part = encode(word - (left, top), (200, 170))
    for name in whole:
        crop = whole[name][top + 100 : top + 300, left + 100 : left + 270]
        torch.testing.assert_close(part[name], crop, rtol=1e-5, atol=1e-6)


def test_ignored_regions_count_in_no_term():
    targets = encode_snakes([[BAR, BAR + np.array([0, 50])], []], [[False, True], []], size=(110, 100))
    assert {value.shape for value in targets.values()} == {(2, 110, 100)}
    assert targets["text_region"][0, 80, 50]
    assert not targets["valid"][0, 80, 50]
    assert not targets["center_line"][0, 60:].any()
    assert targets["center_line"][0, 30, 50]
    assert targets["valid"][0, :60].all()
    assert targets["valid"][1].all()
    assert not targets["text_region"][1].any()


def test_tensors_are_accepted():
    targets, others = encode(BAR), encode(torch.from_numpy(BAR))
    assert all(torch.equal(targets[name], others[name]) for name in targets)


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        (BAR[:2], r"image 0, polygon 1: an outline is \(v, 2\) with v >= 3, found shape \(2, 2\)"),
        (BAR.ravel(), r"image 0, polygon 1: .* found shape \(8,\)"),
        (np.hstack([BAR, BAR]), r"image 0, polygon 1: .* found shape \(4, 4\)"),
        (BAR * [[1, np.nan]], r"image 0, polygon 1: coordinates are finite .* found \[20.0, nan\]. Remove or mend"),
        (BAR * 1e6, r"image 0, polygon 1: coordinates are finite pixels within 1e6"),
    ],
)
@pytest.mark.parametrize("is_ignored", [False, True])
def test_bad_outlines(polygon, message, is_ignored):
    with pytest.raises(ValueError, match=message):
        encode_snakes([[BAR, polygon]], [[False, is_ignored]], size=128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ignored": []}, "polygons has 1 images, ignored has 0. Give one list per image"),
        ({"ignored": [[]]}, "image 0: 1 polygons, 0 ignored flags. Give one flag per polygon"),
        ({"size": 0}, "size must be positive, .* found 0"),
        ({"size": (1, 2, 3)}, r"a whole number or height and width, found \(1, 2, 3\)"),
        ({"size": 64.5}, "a whole number or height and width, found 64.5"),
        ({"size": (64, float("nan"))}, r"a whole number or height and width, found \(64, nan\)"),
        ({"num_disks": 2}, "num_disks must exceed 2 [*] shrink = 2, found 2"),
        ({"shrink": -1}, "shrink is at least 0, found -1"),
        ({"expand": 0}, r"expand must be in \(0, 1\], found 0"),
    ],
)
def test_bad_options(arguments, message):
    given = {"polygons": [[BAR]], "ignored": [[False]], "size": 128} | arguments
    with pytest.raises(ValueError, match=message):
        encode_snakes(**given)
