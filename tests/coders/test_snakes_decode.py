import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from headwise.coders.snakes import decode_snakes, encode_snakes
from tests.coders.words import arc_outline, ideal_maps, iou, words

BAR = np.array([[20.0, 20], [80, 20], [80, 40], [20, 40]])


def blank(size=128):
    """No text anywhere; the direction is +x and the radius 6."""
    maps = torch.zeros(1, 7, size, size)
    maps[:, [1, 3]] = -6
    maps[:, 5] = 1
    maps[:, 6] = 6
    return maps


def paint(maps, rows, columns, confidence=6.0):
    maps[:, 1, rows, columns] = confidence
    maps[:, 3, rows, columns] = confidence
    return maps


@settings(max_examples=25, deadline=None, derandomize=True)
@given(word=words)
def test_ideal_maps_give_the_word_back(word):
    maps = ideal_maps(encode_snakes([[word]], [[False]], size=256))
    (polygon,) = decode_snakes({"maps": maps}, expand=0.05)[0]["polygons"]
    assert iou(polygon, word) >= 0.8
    (polygon,) = decode_snakes({"maps": maps}, within_region=True)[0]["polygons"]
    assert iou(polygon, word) >= 0.9


@settings(max_examples=15, deadline=None, derandomize=True)
@given(word=words)
def test_discs_lie_on_the_center_line(word):
    targets = encode_snakes([[word]], [[False]], size=256)
    (disks,) = decode_snakes({"maps": ideal_maps(targets)})[0]["disks"]
    radius = targets["radius"][targets["center_line"]]
    x, y = disks[:, :2].round().long().T
    assert targets["text_region"][0, y, x].all()
    assert disks[:, 2].min() >= radius.min()
    assert disks[:, 2].max() <= radius.max()
    # From one end to the other: the ends of the line are among the discs.
    line = targets["center_line"][0].nonzero().flip(1).float()
    to_nearest = torch.cdist(line, disks[:, :2]).min(dim=1).values
    assert (to_nearest <= radius.max()).all()


def test_published_direction_decodes_alike():
    outlines = []
    for polygon, as_published in ((BAR, False), (BAR, True), (np.roll(BAR, 2, axis=0), True)):
        targets = encode_snakes([[polygon]], [[False]], size=128, as_published=as_published)
        outlines += decode_snakes({"maps": ideal_maps(targets)}, expand=0.0)[0]["polygons"]
    assert len(outlines) == 3
    assert min(iou(outline, outlines[0]) for outline in outlines) >= 0.95


def test_score_is_the_mean_probability_over_the_word_best_first():
    maps = paint(paint(blank(), slice(20, 27), slice(20, 60), 1.0), slice(80, 87), slice(20, 60), 4.0)
    maps[:, 1, 70:100, 10:70] = 4.0
    maps[:, 1, 10:40, 10:70] = 1.0
    found = decode_snakes({"maps": maps}, expand=0.0)[0]
    assert found["scores"].tolist() == pytest.approx(torch.sigmoid(torch.tensor([4.0, 1.0])).tolist())
    assert [polygon[:, 1].mean().round().item() for polygon in found["polygons"]] == [83, 23]
    assert {value.dtype for value in (*found["polygons"], *found["disks"], found["scores"])} == {torch.float32}


def test_t13_thresholds_are_the_configs():
    defaults = inspect.signature(decode_snakes).parameters
    assert defaults["region_threshold"].default == 0.6
    assert defaults["center_line_threshold"].default == 0.4
    assert defaults["expand"].default == 0.3
    maps = paint(blank(), slice(20, 27), slice(20, 60))
    maps[:, 1, 5:45, 5:75] = 6.0
    maps[:, 3, 20:27, 20:60] = 0.0
    assert len(decode_snakes({"maps": maps})[0]["polygons"]) == 1
    swapped = decode_snakes({"maps": maps}, region_threshold=0.4, center_line_threshold=0.6)
    assert not swapped[0]["polygons"]


def test_half_of_a_word_must_be_text():
    maps = paint(blank(), slice(20, 27), slice(20, 60))
    assert not decode_snakes({"maps": maps}, expand=1.0)[0]["polygons"]
    maps[:, 1, 5:45, 5:75] = 6.0
    assert decode_snakes({"maps": maps}, expand=1.0)[0]["polygons"]


def test_images_are_decoded_one_by_one():
    maps = torch.cat([blank(), paint(blank(), slice(20, 40), slice(20, 60)), blank()])
    assert [len(found["polygons"]) for found in decode_snakes({"maps": maps})] == [0, 1, 0]
    empty = decode_snakes({"maps": maps[:1]})[0]
    assert empty["scores"].shape == (0,)
    assert empty["disks"] == []


def test_merge_joins_the_halves_of_a_line():
    maps = paint(paint(blank(), slice(60, 67), slice(20, 60)), slice(60, 67), slice(64, 100))
    maps[:, 1, 50:76, 10:110] = 6.0
    assert len(decode_snakes({"maps": maps})[0]["polygons"]) == 2
    joined = decode_snakes({"maps": maps}, merge=True)[0]
    (polygon,) = joined["polygons"]
    assert polygon[:, 0].min() < 20
    assert polygon[:, 0].max() > 100
    apart = paint(paint(blank(), slice(20, 27), slice(20, 60)), slice(90, 97), slice(20, 60))
    apart[:, 1] = 6.0
    assert len(decode_snakes({"maps": apart}, merge=True)[0]["polygons"]) == 2


def test_small_lines_can_be_left_out():
    maps = paint(paint(blank(), slice(20, 24), slice(20, 24)), slice(60, 67), slice(20, 60))
    maps[:, 1] = 6.0
    assert len(decode_snakes({"maps": maps})[0]["polygons"]) == 2
    assert len(decode_snakes({"maps": maps}, min_area=10)[0]["polygons"]) == 1


def degenerate_maps():
    random = torch.Generator().manual_seed(0)
    speckled = blank(256)
    speckled[0, [1, 3]] = torch.where(torch.rand(256, 256, generator=random) < 0.2, 6.0, -6.0)
    dots = blank(256)
    dots[:, 1] = 6.0
    dots[:, 3] = -6.0
    on_dot = torch.arange(256) % 8 < 4
    dots[:, 3, on_dot[:, None] & on_dot] = 6.0
    ring = blank()
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    angle = torch.atan2(y - 64, x - 64)
    on_ring = (torch.hypot(x - 64, y - 64) - 40).abs() < 3
    ring[:, [1, 3]] = torch.where(on_ring, 6.0, -6.0)
    ring[:, 4], ring[:, 5] = angle.cos(), -angle.sin()
    still, huge, against, noise = (paint(blank(), slice(None), slice(None)) for _ in range(4))
    still[:, 4:] = 0
    huge[:, 6] = 1e30
    against[:, 6] = -50
    noise[:, 4:] = torch.randn(1, 3, 128, 128, generator=random) * 20
    return {
        "one pixel": paint(blank(), 5, 5),
        "one row": paint(blank(), 5, slice(0, 128)),
        "corner": paint(blank(), slice(0, 3), slice(0, 3)),
        "full": paint(blank(), slice(None), slice(None)),
        "no direction, no radius": still,
        "huge radius": huge,
        "negative radius": against,
        "noise": noise,
        "speckled": speckled,
        "a thousand dots": dots,
        "ring": ring,
        "two pixels square": paint(blank(2), slice(None), slice(None)),
    }


@pytest.mark.timeout(20)
@pytest.mark.parametrize("case", degenerate_maps())
@pytest.mark.parametrize("options", [{}, {"merge": True, "within_region": True}])
def test_degenerate_maps_end_and_stay_inside(case, options):
    maps = degenerate_maps()[case]
    found = decode_snakes({"maps": maps}, **options)[0]
    size = maps.shape[-1]
    for polygon in found["polygons"]:
        assert len(polygon) >= 3
        assert polygon.min() >= 0
        assert polygon.max() < size
    for disks in found["disks"]:
        assert disks.isfinite().all()
        assert options or len(disks) <= 401
    assert ((found["scores"] >= 0) & (found["scores"] <= 1)).all()


def test_half_precision_and_graph_are_accepted():
    maps = paint(blank(), slice(20, 40), slice(20, 60))
    found = decode_snakes({"maps": maps.bfloat16().requires_grad_(), "other": maps})[0]
    assert len(found["polygons"]) == 1


def test_values_that_are_not_finite_are_named():
    maps = torch.cat([blank(), blank()])
    maps[1, 6, 3, 3] = torch.nan
    maps[1, 6, 3, 4] = torch.inf
    with pytest.raises(ValueError, match=r"2 values that are not finite, the first in image 1, channel 6. .*earlier"):
        decode_snakes({"maps": maps})


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        ({"map": blank()}, {}, "no output 'maps'. The network returned: map"),
        ({}, {}, "The network returned: nothing"),
        (blank(), {}, "outputs are {'maps': tensor}, found a Tensor"),
        ({"maps": blank()[0]}, {}, r"must be \(N, 7, H, W\), found shape \(7, 128, 128\)"),
        ({"maps": blank()[:, :6]}, {}, r"found shape \(1, 6, 128, 128\)"),
        ({"maps": blank()}, {"region_threshold": 1.5}, r"region_threshold must be in \[0, 1\], found 1.5"),
        ({"maps": blank()}, {"center_line_threshold": -1}, "center_line_threshold must be"),
        ({"maps": blank()}, {"expand": -0.1}, "expand must be at least 0 and finite, found -0.1"),
        ({"maps": blank()}, {"expand": float("inf")}, "expand must be at least 0 and finite, found inf"),
        ({"maps": blank()}, {"min_area": -1}, "min_area must be at least 0"),
        ({"maps": blank()}, {"max_steps": 0}, "max_steps is at least 1, found 0"),
    ],
)
def test_bad_input(outputs, options, message):
    with pytest.raises(ValueError, match=message):
        decode_snakes(outputs, **options)


def test_two_words_that_touch_stay_two():
    upper, lower = (arc_outline(90, 20, 0.4, 0.1, 8, (64, y)) for y in (40, 61))
    targets = encode_snakes([[upper, lower]], [[False, False]], size=128)
    found = decode_snakes({"maps": ideal_maps(targets)}, expand=0.05)[0]["polygons"]
    assert len(found) == 2
    assert all(max(iou(polygon, word) for polygon in found) >= 0.75 for word in (upper, lower))
