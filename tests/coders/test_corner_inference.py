"""Whole pictures: recorded results of the authors' tests, mirrored and rescaled passes, and what theirs get wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headwise.coders.corners import Pass, merge_passes, place_picture, suppress_boxes
from headwise.coders.soft_nms import Suppression

RECORDED = np.load(Path(__file__).parents[1] / "golden" / "full_inference.npz")
KINDS = {"tl": "top_left", "br": "bottom_right", "ct": "center"}
MAPS = {"heat": "heatmap", "tag": "embedding", "off": "offset"}


def recorded_stack(case):
    names = [name for name in RECORDED.files if name.startswith(f"{case}/in/")]
    split = {name: name.rsplit("/", 1)[1].split("_") for name in names}
    return {f"{KINDS[kind]}_{MAPS[maps]}": torch.from_numpy(RECORDED[name]) for name, (kind, maps) in split.items()}


def recorded_pass(case):
    size, mirrored = {"cn_noflip": ((127, 90), (False,)), "ct_flip": ((100, 120), (False, True))}[case]
    return Pass({"stacks": [recorded_stack(case)]}, place_picture(size), mirrored)


def table(found):
    return torch.cat([found["labels"][:, None] + 1, found["boxes"], found["scores"][:, None]], 1).double().numpy()


def in_order(rows):
    return rows[np.lexsort((rows[:, 1].round(2), -rows[:, 5].round(5), rows[:, 0]))]


@pytest.mark.parametrize(("case", "num_detections"), [("cn_noflip", 100), ("ct_flip", 400)])
def test_recorded_results(case, num_detections):
    center = case == "ct_flip"
    found = merge_passes(
        [recorded_pass(case)], num_peaks=20, num_detections=num_detections, center=center, as_published=True
    )
    np.testing.assert_allclose(in_order(table(found)), in_order(RECORDED[f"{case}/out/final"]), rtol=0, atol=1e-4)
    assert (found["scores"].diff() <= 0).all()


def test_recorded_input_sizes():
    assert place_picture((127, 90)).input_size == (127, 127)
    assert place_picture((100, 33), multiple=32).input_size == (127, 63)
    placed = place_picture((100, 120), scale=1.5)
    assert (placed.resized_size, placed.input_size, placed.top, placed.left) == ((150, 180), (255, 255), 52, 37)


def outputs(boxes, input_size, labels=None, score=4.0):
    """One stack that says boxes, given in pixels of the input, to rounding of single precision."""
    boxes = torch.as_tensor(boxes, dtype=torch.float32).view(-1, 4)
    shape = (input_size[0] + 1) // 4, (input_size[1] + 1) // 4
    cells = boxes * boxes.new_tensor([shape[1] / input_size[1], shape[0] / input_size[0]] * 2)
    stack: dict[str, torch.Tensor] = {}
    for kind, places in (
        ("top_left", cells[:, :2]),
        ("bottom_right", cells[:, 2:]),
        ("center", cells.view(-1, 2, 2).mean(1)),
    ):
        heat = torch.full((1, 3, *shape), -20.0)
        offset = torch.zeros(1, 2, *shape)
        for number, (x, y) in enumerate(places.tolist()):
            heat[0, 0 if labels is None else labels[number], int(y), int(x)] = score - number
            offset[0, :, int(y), int(x)] = torch.tensor([x - int(x), y - int(y)])
        stack |= {f"{kind}_heatmap": heat, f"{kind}_offset": offset}
        stack[f"{kind}_embedding"] = torch.zeros(1, 1, *shape)
    return stack


def batch(*stacks):
    return {"stacks": [{name: torch.cat([stack[name] for stack in stacks]) for name in stacks[0]}]}


def mirrored_pass(convention, center=False):
    """A picture that fills its input, and its mirror image as a network of the convention sees it."""
    placement = place_picture((127, 127))
    box, last = [20.25, 30.5, 60.75, 99.0], {"edges": 127.0, "centers": 126.0}[convention]
    other = [last - box[2], box[1], last - box[0], box[3]]
    stacks = [outputs(each, placement.input_size) for each in (box, other)]
    return Pass(batch(*stacks), placement, (False, True)), torch.tensor(box)


OPTIONS: dict[str, Any] = {"num_peaks": 1, "rule": Suppression("hard", iou_threshold=1.0)}


@pytest.mark.parametrize("center", [False, True])
def test_mirror_images_agree_with_their_pictures(center):
    """Defect D4, mended: training here mirrors edges, x' = W - x, and so does the test."""
    one, box = mirrored_pass("edges")
    found = merge_passes([one], center=center, **OPTIONS)
    torch.testing.assert_close(found["boxes"], box.expand(2, 4), rtol=0, atol=1e-4)


def test_networks_trained_by_the_authors_have_their_own_mirror():
    one, box = mirrored_pass("centers")
    found = merge_passes([one], mirror="centers", **OPTIONS)
    torch.testing.assert_close(found["boxes"], box.expand(2, 4), rtol=0, atol=1e-4)


def test_published_mirror_is_one_pixel_off():
    """Defect D4: trained with x' = W - 1 - x, tested with x' = W - x."""
    one, box = mirrored_pass("centers")
    found = merge_passes([one], as_published=True, **OPTIONS)
    off = (found["boxes"] - box).abs().amax(1).sort().values
    torch.testing.assert_close(off, torch.tensor([0.0, 1.0]), rtol=0, atol=1e-4)


def scaled_pass(scale, image_size=(120, 100), box=(20.0, 30.0, 60.0, 90.0), score=4.0):
    placement = place_picture(image_size, scale=scale)
    ratios = [placement.resized_size[1] / image_size[1], placement.resized_size[0] / image_size[0]] * 2
    shift = [placement.left, placement.top] * 2
    placed = [side * ratio + border for side, ratio, border in zip(box, ratios, shift, strict=True)]
    return Pass(outputs(placed, placement.input_size, score=score), placement)


def test_all_scales_say_the_same_box():
    """Sizes that are rounded to whole pixels are divided by what they were rounded to."""
    passes = [scaled_pass(scale, (119, 101)) for scale in (0.5, 0.75, 1.0, 1.25, 1.5)]
    found = merge_passes(passes, **OPTIONS)
    torch.testing.assert_close(found["boxes"], torch.tensor([[20.0, 30, 60, 90]]).expand(5, 4), rtol=0, atol=1e-3)


def test_scales_are_merged():
    wide, narrow = scaled_pass(1.0, box=(20, 30, 60, 90), score=4.0), scaled_pass(0.5, box=(20, 30, 56, 90), score=3.0)
    found = merge_passes([wide, narrow], num_peaks=1, rule=Suppression(weight_exponent=2.0))
    overlap = 36 / 40
    share = (1 - np.exp(-(overlap**2) / 0.5)) ** 2
    first, second = (1 / (1 + np.exp(-score)) for score in (4.0, 3.0))
    right = (60 * first + 56 * second * share) / (first + second * share)
    np.testing.assert_allclose(found["boxes"][0], [20, 30, right, 90], rtol=0, atol=1e-3)
    np.testing.assert_allclose(found["scores"], [first, second * np.exp(-(overlap**2) / 0.5)], rtol=1e-5)


@pytest.mark.parametrize("as_published", [False, True])
def test_published_merging_runs(as_published):
    found = merge_passes(
        [recorded_pass("cn_noflip")],
        num_peaks=15,
        rule=Suppression(weight_exponent=10.0, plus_one=True),
        as_published=as_published,
    )
    assert len(found["boxes"]) > 0
    assert found["boxes"].isfinite().all()


def heap():
    """Thirty boxes almost on top of one another, in one pass."""
    placement = place_picture((127, 127))
    generator = torch.Generator().manual_seed(0)
    found = {
        "boxes": torch.tensor([10.0, 10, 90, 90]) + 0.3 * torch.rand(30, 4, generator=generator),
        "scores": torch.rand(30, generator=generator),
        "labels": torch.zeros(30, dtype=torch.long),
    }
    return found, placement.image_size


def test_published_results_hold_stale_boxes():
    """Defect D5."""
    found, size = heap()
    kept = suppress_boxes(found, size, as_published=True)
    assert len(kept["boxes"]) == 30
    assert len(kept["boxes"].unique(dim=0)) < 30


def test_results_hold_no_stale_boxes():
    found, size = heap()
    kept = suppress_boxes(found, size)
    assert 0 < len(kept["boxes"]) < 10
    assert len(kept["boxes"].unique(dim=0)) == len(kept["boxes"])


def test_published_centers_need_scale_one():
    """Defect D9: the authors join an empty list."""
    passes = [scaled_pass(scale) for scale in (0.5, 1.5)]
    with pytest.raises(
        ValueError, match=r"centers come from scale 1, found scales \[0.5, 1.5\]. Add a pass of scale 1"
    ):
        merge_passes(passes, center=True, as_published=True)


def test_centers_come_from_the_scale_nearest_to_one():
    passes = [scaled_pass(scale) for scale in (0.5, 1.5)]
    found = merge_passes(passes, center=True, **OPTIONS)
    torch.testing.assert_close(found["boxes"], torch.tensor([[20.0, 30, 60, 90]]).expand(2, 4), rtol=0, atol=1e-3)
    passes[1].outputs["center_heatmap"].fill_(-torch.inf)
    assert len(merge_passes(passes, center=True, **OPTIONS)["boxes"]) == 0


def test_boxes_are_clipped_and_empty_ones_dropped():
    box = [[30.0, 30, 60, 60], [-20, -20, 20, 20], [-20, -20, -10, 50]]
    found = {"boxes": torch.tensor(box), "scores": torch.tensor([0.3, 0.9, 0.5]), "labels": torch.tensor([2, 0, 1])}
    kept = suppress_boxes(found, (40, 50))
    assert kept["boxes"].tolist() == [[0, 0, 20, 20], [30, 30, 50, 40]]
    assert kept["labels"].tolist() == [0, 2]
    assert len(suppress_boxes(found, (40, 50), as_published=True)["boxes"]) == 3


def test_far_outside_is_dropped_with_centers():
    """CenterNet leaves out boxes that reach 5 pixels out of the picture, CornerNet clips them."""
    placement = place_picture((127, 100))
    one = Pass(outputs([5.0, 20, 60, 90], placement.input_size), placement)
    assert placement.left == 13
    assert len(merge_passes([one], **OPTIONS)["boxes"]) == 1
    assert len(merge_passes([one], center=True, **OPTIONS)["boxes"]) == 0


@pytest.mark.parametrize("as_published", [False, True])
def test_the_best_hundred(as_published):
    generator = torch.Generator().manual_seed(0)
    corner = torch.arange(150.0)[:, None] * 20
    boxes = torch.cat([corner, corner, corner + 10, corner + 10], 1)
    scores = torch.rand(150, generator=generator).clamp(max=0.5)
    found = {"boxes": boxes, "scores": scores, "labels": torch.arange(150) % 7}
    ties = int((scores == 0.5).sum())
    assert ties > 60
    kept = suppress_boxes(found, (4000, 4000), max_detections=50, as_published=as_published)
    assert len(kept["scores"]) == (ties if as_published else 50)
    assert len(suppress_boxes(found, (4000, 4000), as_published=as_published)["scores"]) == 100


@pytest.mark.parametrize("as_published", [False, True])
def test_nothing_found(as_published):
    one = scaled_pass(1.0)
    for name in ("top_left_heatmap", "center_heatmap"):
        one.outputs[name].fill_(-torch.inf)
    for center in (False, True):
        found = merge_passes([one], center=center, as_published=as_published)
        assert (found["boxes"].shape, found["scores"].shape, found["labels"].shape) == ((0, 4), (0,), (0,))


def test_a_filled_input_shows_the_picture():
    picture = torch.rand(3, 90, 70)
    placement = place_picture((90, 70))
    filled = placement.fill(picture, mirrored=True)
    assert filled.shape == (2, 3, 127, 127)
    left, top = placement.left, placement.top
    assert torch.equal(filled[0, :, top : top + 90, left : left + 70], picture)
    assert torch.equal(filled[1], filled[0].flip(-1))
    assert filled[0].count_nonzero() == picture.count_nonzero()
    stretched = place_picture((90, 70), input_size=(63, 63))
    assert stretched.fill(picture).shape == (1, 3, 63, 63)
    torch.testing.assert_close(stretched.to_image(torch.tensor([63.0, 63.0])), torch.tensor([70.0, 90.0]))


def test_bad_input_is_told():
    one = scaled_pass(1.0)
    with pytest.raises(ValueError, match="passes must be of one picture, found pictures of none"):
        merge_passes([])
    with pytest.raises(ValueError, match="passes must be of one picture"):
        merge_passes([one, scaled_pass(1.0, (121, 100))])
    with pytest.raises(ValueError, match="the outputs have 1 rows, but mirrored has 2"):
        merge_passes([Pass(one.outputs, one.placement, (False, True))])
    wrong: Any = "pixels"
    with pytest.raises(ValueError, match="mirror must be one of"):
        merge_passes([one], mirror=wrong)
    with pytest.raises(ValueError, match=r"the picture must be floating \(channels, 120, 100\)"):
        one.placement.fill(torch.zeros(3, 10, 10))
    with pytest.raises(ValueError, match="multiple must be a power of 2, found 48"):
        place_picture((10, 10), multiple=48)
    with pytest.raises(ValueError, match="no pixel is left"):
        place_picture((10, 10), scale=0.01)
