"""Looking twice: the authors' recorded crops, locations and boxes; a picture where the answer is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headwise.coders.corners import (
    attention_locations,
    crops_around,
    decode_saccade,
    initial_locations,
    reference_locations,
    saccade_inference,
    suppress_boxes,
    suppress_locations,
)
from headwise.coders.corners.crops import Crops
from headwise.coders.soft_nms import Suppression

RECORDED = np.load(Path(__file__).parents[1] / "golden" / "full_inference.npz")
KINDS = {"tl": "top_left", "br": "bottom_right"}
MAPS = {"heat": "heatmap", "tag": "embedding", "off": "offset"}


def recorded_outputs(call):
    at = f"sac_a/in/call{call}_"
    stack = {
        f"{kind}_{name}": torch.from_numpy(RECORDED[f"{at}{short}_{maps}"])
        for short, kind in KINDS.items()
        for maps, name in MAPS.items()
    }
    return stack | {"attention": [torch.from_numpy(RECORDED[f"{at}att{scale}"]) for scale in range(3)]}


def joined(parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_recorded_first_look():
    first = initial_locations((90, 120), (48, 63), as_published=True)
    np.testing.assert_allclose(first[:, [1, 0, 2]], RECORDED["sac_a/out/locations_0"], rtol=0, atol=1e-6)
    crops = crops_around(first, window=63, as_published=True)
    for row, found in enumerate(decode_saccade(recorded_outputs(0), crops, as_published=True)):
        expected = RECORDED["sac_a/out/call0_det"][row]
        expected = expected[expected[:, 4] > -1]
        on_grid = (found["boxes"] - crops.offsets[row].repeat(2)) * crops.scales[row] * 16 / 63
        np.testing.assert_allclose(on_grid, expected[:, :4], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found["scores"], expected[:, 4], rtol=0, atol=1e-6)
        assert found["labels"].tolist() == expected[:, 7].tolist()


def test_recorded_locations():
    """Six locations: the four boxes, and two of the equal peaks of attention, whose order NumPy's sort left open."""
    crops = crops_around(initial_locations((90, 120), (48, 63), as_published=True), window=63, as_published=True)
    outputs = recorded_outputs(0)
    found = joined(decode_saccade(outputs, crops, as_published=True))
    sure = found["scores"] > 0.3
    attended = attention_locations(outputs["attention"], crops, (90, 120), as_published=True)
    references = reference_locations(found["boxes"][sure], found["scores"][sure])
    expected = RECORDED["sac_a/out/locations_1"][:, [1, 0, 2, 3]]
    kept = suppress_locations(torch.cat([attended, references]), as_published=True)
    np.testing.assert_allclose(kept[:4], expected[:4], rtol=0, atol=1e-4)
    for location in expected[4:]:
        assert (attended - torch.from_numpy(location)).abs().amax(1).min() < 1e-4


def test_recorded_results():
    first = crops_around(initial_locations((90, 120), (48, 63), as_published=True), window=63, as_published=True)
    found = joined(decode_saccade(recorded_outputs(0), first, as_published=True))
    found = {name: values[found["scores"] > 0.3] for name, values in found.items()}
    locations = torch.from_numpy(RECORDED["sac_a/out/locations_1"][:, [1, 0, 2, 3]])
    crops = crops_around(locations, window=63, as_published=True)
    second = joined(decode_saccade(recorded_outputs(1), crops, as_published=True))
    kept = suppress_boxes(joined([found, second]), None, rule=Suppression(sigma=0.7, plus_one=True))
    rows = torch.cat([kept["labels"][:, None] + 1, kept["boxes"], kept["scores"][:, None]], 1).double().numpy()
    ordered = [each[np.lexsort((-each[:, 5].round(5), each[:, 0]))] for each in (rows, RECORDED["sac_a/out/final"])]
    np.testing.assert_allclose(ordered[0], ordered[1], rtol=0, atol=1e-4)


# A picture that tells where it is: its channels are x, y and 1, so a crop of it shows where it was cut.

LARGE, SMALL = [60.0, 30.0, 260.0, 190.0], [400.5, 300.25, 416.0, 330.5]


def ramps(height=400, width=600):
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y, torch.ones(height, width)])


class Seer:
    """A network that reads off a crop where it lies, and says each box that it can resolve."""

    def __init__(self, boxes, attention=True, least=12.0):
        self.boxes, self.attention, self.least, self.batches = boxes, attention, least, []

    def __call__(self, crops):
        self.batches.append(len(crops))
        rows = [self.look(crop) for crop in crops]
        stack = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "attention"}
        maps = [torch.stack([row["attention"][level] for row in rows]) for level in range(3)]
        return {"stacks": [stack | {"attention": maps}]}

    def look(self, crop):
        inside = (crop[2] > 0.9999).nonzero()
        (top, left), (bottom, right) = inside[0].tolist(), inside[-1].tolist()
        scale = (right - left) / (crop[0, bottom, right] - crop[0, top, left])
        origin = torch.stack([crop[0, top, left] - (left + 0.5) / scale, crop[1, top, left] - (top + 0.5) / scale])
        row: dict[str, Any] = {"attention": [torch.full((1, side, side), -9.0) for side in (16, 32, 64)]}
        for kind in ("top_left", "bottom_right"):
            row |= {f"{kind}_heatmap": torch.full((2, 64, 64), -20.0), f"{kind}_offset": torch.zeros(2, 64, 64)}
            row[f"{kind}_embedding"] = torch.zeros(1, 64, 64)
        for label, box in enumerate(self.boxes):
            corners = (torch.tensor(box).view(2, 2) - origin) * scale
            if corners.min() > 4 and corners.max() < 251:
                self.say(row, label, corners)
        return row

    def say(self, row, label, corners):
        longest, middle = (corners[1] - corners[0]).max(), corners.mean(0)
        if self.attention:
            level = 0 if longest > 96 else 1 if longest > 32 else 2
            x, y = (middle // (16, 8, 4)[level]).long().tolist()
            row["attention"][level][0, y, x] = 2.0
        if longest >= self.least:
            for kind, point in zip(("top_left", "bottom_right"), corners * 64 / 255, strict=True):
                x, y = point.long().tolist()
                row[f"{kind}_heatmap"][label, y, x] = 3.0
                row[f"{kind}_offset"][:, y, x] = point - point.long()
                row[f"{kind}_embedding"][0, y, x] = 2.0 * label


def test_a_small_object_is_found_at_the_second_look():
    network = Seer([LARGE, SMALL], least=40.0)
    found = saccade_inference(network, ramps())
    assert network.batches == [2, 4]  # each object at the two sizes of the first look
    for label, box in enumerate((LARGE, SMALL)):
        best = found["boxes"][found["labels"] == label][0]
        torch.testing.assert_close(best, torch.tensor(box), rtol=0, atol=0.02)
    first = Seer([LARGE, SMALL], least=40.0, attention=False)
    assert 1 not in saccade_inference(first, ramps())["labels"]


def test_published_crops_are_rounded_to_whole_pixels():
    """The same geometry is used to cut and to go back, so that boxes stay exact; only the windows move."""
    found = saccade_inference(Seer([LARGE, SMALL]), ramps(), as_published=True)
    for label, box in enumerate((LARGE, SMALL)):
        best = found["boxes"][found["labels"] == label][0]
        torch.testing.assert_close(best, torch.tensor(box), rtol=0, atol=0.02)
    crops = crops_around(found["locations"], as_published=True)
    assert torch.equal(crops.offsets, crops.offsets.round())


def test_batches_and_number_of_crops():
    boxes = [[40.0 + 90 * i, 40 + 80 * k, 60 + 90 * i, 60 + 80 * k] for i, k in ((0, 0), (0, 1))]
    whole, parts = Seer(boxes), Seer(boxes)
    found = saccade_inference(whole, ramps())
    split = saccade_inference(parts, ramps(), batch_size=1)
    assert set(parts.batches) == {1}
    assert all(torch.equal(found[name], split[name]) for name in found)
    few = Seer(boxes)
    assert len(saccade_inference(few, ramps(), max_crops=1)["locations"]) == 1
    assert few.batches == [2, 1]


def test_sides_of_the_second_look():
    """A box already found is looked at with the long side asked for, and no attention of its own."""
    network = Seer([LARGE], attention=False)
    assert saccade_inference(network, ramps())["locations"].tolist() == [
        pytest.approx([160, 110, 192 / 200, 1], abs=1e-3)
    ]
    found = saccade_inference(network, ramps(), reference_sides=((96.0, 100.0), (0.0, 24.0)))
    assert found["locations"].tolist() == [pytest.approx([160, 110, 0.5, 1], abs=1e-3)]


def test_nothing_to_look_at():
    network = Seer([])
    found = saccade_inference(network, ramps())
    assert network.batches == [2]
    assert (found["boxes"].shape, found["locations"].shape) == ((0, 4), (0, 4))


def test_crops_show_the_picture():
    picture = torch.rand(3, 50, 60)
    crops = Crops(torch.tensor([[-5.0, 4.0], [10.0, 20.0]]), torch.tensor([1.0, 2.0]), 20)
    cut = crops.cut(picture)
    torch.testing.assert_close(cut[0, :, :, 5:], picture[:, 4:24, :15])
    assert cut[0, :, :, :5].abs().max() < 1e-5
    torch.testing.assert_close(
        cut[1].unflatten(1, (10, 2)).mean(2)[:, 1:-1].unflatten(2, (10, 2)).mean(3)[..., 1:-1],
        smooth(picture)[:, 21:29, 11:19],
    )
    torch.testing.assert_close(crops.to_image(torch.tensor([10.0, 10.0]), 1), torch.tensor([15.0, 25.0]))


def smooth(picture):
    """Means of four bilinear samples a quarter of a pixel off the middle: weights 1/8, 3/4, 1/8 each way."""
    weights = torch.tensor([0.125, 0.75, 0.125])
    kernel = (weights[:, None] * weights).expand(3, 1, 3, 3)
    return torch.nn.functional.conv2d(picture[None], kernel, padding=1, groups=3)[0]


# Locations


def one_peak(level, y, x, value=2.0, num_crops=1):
    maps = [torch.full((num_crops, 1, side, side), -9.0) for side in (16, 32, 64)]
    maps[level][0, 0, y, x] = value
    return maps


@pytest.mark.parametrize(("level", "cell", "zoom"), [(0, 16, 1), (1, 8, 2), (2, 4, 4)])
@pytest.mark.parametrize(("as_published", "middle"), [(True, 0.0), (False, 0.5)])
def test_attention_by_hand(level, cell, zoom, as_published, middle):
    crops = Crops(torch.tensor([[-20.0, 30.0]]), torch.tensor([0.5]), 255)
    found = attention_locations(one_peak(level, 3, 5), crops, (400, 600), as_published=as_published)
    place = [(5 + middle) * cell / 0.5 - 20, (3 + middle) * cell / 0.5 + 30]
    torch.testing.assert_close(found, torch.tensor([[*place, zoom * 0.5, 1 / (1 + np.exp(-2.0))]], dtype=torch.float32))


def test_attention_outside_below_and_too_near_is_not_followed():
    crops = Crops(torch.tensor([[0.0, 0.0]]), torch.tensor([1.0]), 255)
    assert len(attention_locations(one_peak(2, 3, 5), crops, (400, 600))) == 1
    assert len(attention_locations(one_peak(2, 3, 5), crops, (14, 600))) == 0
    assert len(attention_locations(one_peak(2, 3, 5, value=-0.9), crops, (400, 600))) == 0
    for scale, level, followed in ((1.1, 2, 0), (1.1, 1, 1), (2.0, 1, 1), (2.1, 0, 0)):
        near = Crops(crops.offsets, torch.tensor([scale]), 255)
        assert len(attention_locations(one_peak(level, 3, 5), near, (400, 600))) == followed


def test_equal_attention_is_one_location():
    """Defect D3 again: of a plateau one pixel is followed, as published all."""
    maps = one_peak(1, 3, 5)
    maps[1][0, 0, 3:5, 5:8] = 1.0
    crops = Crops(torch.tensor([[0.0, 0.0]]), torch.tensor([1.0]), 255)
    assert len(attention_locations(maps, crops, (400, 600))) == 1
    assert len(attention_locations(maps, crops, (400, 600), as_published=True)) == 6


def test_references_by_hand():
    boxes = torch.tensor([[0.0, 0, 192, 10], [0, 0, 10, 96], [10, 10, 42, 42], [5, 5, 5, 5], [0, 0, 50, 50]])
    found = reference_locations(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]))
    expected = [[96, 5, 1, 1], [5, 48, 64 / 96, 1], [26, 26, 0.75, 1], [5, 5, 24, 1]]
    torch.testing.assert_close(found, torch.tensor(expected))


IN_A_ROW = torch.tensor([[0.0, 100, 1, 0.9], [200, 100, 1, 0.8], [400, 300, 1, 0.7]])


def test_published_locations_of_a_row_suppress_one_another():
    """Defect D7: the distance is min(dx, dy), 0 in a row at any distance."""
    kept = suppress_locations(IN_A_ROW, as_published=True)
    assert kept[:, 3].tolist() == pytest.approx([0.9, 0.7])


def test_only_near_locations_suppress_one_another():
    assert torch.equal(suppress_locations(IN_A_ROW), IN_A_ROW)
    near = torch.tensor([[0.0, 0, 2, 0.9], [8, 8, 2, 0.8], [0, 8.5, 2, 0.7], [0, 0, 1, 0.6], [0, 0, 2.2, 0.5]])
    assert suppress_locations(near)[:, 3].tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert suppress_locations(near[:0]).shape == (0, 4)


def test_bad_input_is_told():
    crops = Crops(torch.zeros(1, 2), torch.ones(1), 255)
    with pytest.raises(ValueError, match="1 crops and 3 zooms need as many maps"):
        attention_locations(one_peak(0, 1, 1)[:2], crops, (400, 600))
    with pytest.raises(ValueError, match="an attention map holds NaN"):
        attention_locations(one_peak(0, 1, 1, torch.nan), crops, (400, 600))
    with pytest.raises(ValueError, match="6 crops need as many rows of outputs, found 2"):
        decode_saccade(recorded_outputs(0), Crops(torch.zeros(6, 2), torch.ones(6), 63))
    stack = {name: maps for name, maps in recorded_outputs(0).items() if name != "attention"}
    with pytest.raises(ValueError, match="returned no attention, found top_left_heatmap"):
        saccade_inference(lambda crops: stack, torch.zeros(3, 90, 120), window=63)
