"""Corners to boxes: recorded detections, a slow double, a round trip, and what the authors' decoder gets wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise.coders.corners import decode_corners, encode_corners, peaks
from headwise.coders.corners.decoding import decode_batch
from headwise.coders.corners.pairing import Pairing
from headwise.coders.corners.peaks import find_peaks, local_maxima
from tests.reference import corner_boxes as slow

RECORDED = np.load(Path(__file__).parents[1] / "golden" / "corner_decode.npz")
KINDS = {"tl": "top_left", "br": "bottom_right", "ct": "center"}
MAPS = {"heat": "heatmap", "tag": "embedding", "off": "offset"}


def recorded_stack(case):
    names = [name for name in RECORDED.files if name.startswith(f"{case}/in/")]
    split = {name: name.rsplit("/", 1)[1].split("_") for name in names}
    return {f"{KINDS[kind]}_{MAPS[maps]}": torch.from_numpy(RECORDED[name]) for name, (kind, maps) in split.items()}


def random_stack(num_images=2, num_classes=3, size=(9, 11), seed=0, center=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    stack = {}
    for kind in ("top_left", "bottom_right", *(["center"] if center else [])):
        stack[f"{kind}_heatmap"] = torch.randn(num_images, num_classes, *size, generator=generator, dtype=dtype)
        stack[f"{kind}_offset"] = torch.rand(num_images, 2, *size, generator=generator, dtype=dtype)
        if kind != "center":
            stack[f"{kind}_embedding"] = torch.randn(num_images, 1, *size, generator=generator, dtype=dtype)
    return stack


@pytest.mark.parametrize("as_published", [True, False])
@pytest.mark.parametrize(
    ("case", "num_peaks", "num_detections"), [("squeeze_like", 20, 100), ("one_class", 10, 20), ("ct_small", 15, 60)]
)
def test_recorded_detections(case, num_peaks, num_detections, as_published):
    stack = recorded_stack(case)
    size = tuple(stack["top_left_heatmap"].shape[-2:])
    pairing = Pairing(num_peaks, num_detections, as_published=as_published)
    for image, (found, centers) in enumerate(decode_batch(stack, size, pairing, center=case == "ct_small")):
        expected = RECORDED[f"{case}/out/det"][image][: RECORDED[f"{case}/out/n_valid"][image]]
        np.testing.assert_allclose(found["boxes"], expected[:, :4], rtol=0, atol=1e-4)
        sides = [found[name] for name in ("scores", "top_left_scores", "bottom_right_scores", "labels")]
        np.testing.assert_allclose(torch.stack(sides, 1), expected[:, 4:], rtol=0, atol=1e-6)
        if case == "ct_small":
            rows = torch.cat([centers.points, centers.labels[:, None], centers.scores[:, None]], 1)
            np.testing.assert_allclose(rows, RECORDED[f"{case}/out/center"][image], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_the_slow_double(kernel_size, dtype):
    stack = random_stack(dtype=dtype)
    found = decode_corners(
        {"stacks": [random_stack(seed=9), stack]},
        image_size=(71, 80),
        num_peaks=25,
        kernel_size=kernel_size,
        embedding_threshold=1.0,
    )
    for image in range(2):
        expected = slow.decode(stack, image, 25, (71, 80), 1.0, kernel_size)
        assert len(expected) > 3
        rows = torch.cat([found[image]["boxes"], found[image]["scores"][:, None], found[image]["labels"][:, None]], 1)
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-5)
        apart = found[image]["top_left_embeddings"] - found[image]["bottom_right_embeddings"]
        assert (apart.abs() <= 1.0).all()


def test_the_best_are_kept():
    stack = random_stack()
    both = [decode_corners(stack, image_size=(9, 11), num_detections=most)[0] for most in (1000, 5)]
    assert len(both[0]["scores"]) > 5
    for name, values in both[0].items():
        assert torch.equal(values[:5], both[1][name])


# Peaks


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (8, 8), (17, 9), (32, 32), (70, 90)])
@pytest.mark.parametrize("ties", ["first", "all"])
@pytest.mark.parametrize("levels", [2, 4, None])
def test_candidates_are_all_pixels_that_matter(size, ties, levels):
    """The short way (tiles first) finds what looking at every pixel finds; with few levels, plateaus abound."""
    maps = torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(1))
    maps = maps if levels is None else (maps * levels / 4).round()
    for num_peaks in (1, 7, 10_000):
        short = find_peaks(maps, min(num_peaks, maps[0].numel()), as_published=ties == "all")
        kept = torch.where(local_maxima(maps, ties=ties), maps, -torch.inf).flatten(1)
        whole = kept.sort(descending=True).values[:, : short.logits.shape[1]]
        assert torch.equal(short.logits, whole)
        assert (whole > -torch.inf).sum() == (kept > -torch.inf).sum(1).clamp(max=num_peaks).sum()
        read = maps.flatten(2).transpose(1, 2)[torch.arange(3)[:, None], short.index, short.labels]
        assert torch.equal(read[whole > -torch.inf], whole[whole > -torch.inf])


def test_few_pixels_are_looked_at(monkeypatch):
    def refuse(*_):
        raise AssertionError("every pixel is looked at")

    maps = torch.randn(2, 8, 64, 64, generator=torch.Generator().manual_seed(1))
    whole = torch.where(local_maxima(maps), maps, -torch.inf).flatten(1).topk(30).values
    monkeypatch.setattr(peaks, "_rank_pixels", refuse)
    assert torch.equal(find_peaks(maps, 30).logits, whole)
    flat = torch.zeros(2, 3, 64, 64)
    assert find_peaks(flat, 30).logits.shape == (2, 3)  # one a plateau
    with pytest.raises(AssertionError, match="every pixel"):
        find_peaks(flat, 30, as_published=True)


def test_plateaus_are_ranked_as_by_every_pixel():
    """Some maps are flat and others have plateaus; on flat ones few pixels rise above those to the left and above."""
    draw = torch.Generator().manual_seed(0)
    for kernel_size in (1, 3, 7):
        for _ in range(10):
            maps = torch.randint(0, 3, (2, 3, 40, 37), generator=draw).float().repeat_interleave(6, 2)[:, :, :40]
            maps = torch.where(torch.rand(2, 3, 1, 1, generator=draw) > 0.5, torch.zeros(()), maps)
            short = find_peaks(maps, 9, kernel_size=kernel_size).logits
            whole = peaks._rank_pixels(maps, 9, kernel_size, "first")[0]
            assert torch.equal(short, whole[:, : short.shape[1]])
            assert (whole[:, short.shape[1] :] == -torch.inf).all()


@given(
    st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 12), st.integers(0, 2**31), st.booleans()
)
@settings(max_examples=25, deadline=None)
def test_peaks_of_any_map(num_classes, height, width, num_peaks, seed, coarse):
    maps = torch.randn(1, num_classes, height, width, generator=torch.Generator().manual_seed(seed))
    maps = maps.round() if coarse else maps
    found = find_peaks(maps, num_peaks)
    expected = slow.peaks(maps[0].numpy(), num_peaks)
    real = found.logits[0] > -torch.inf
    assert found.logits[0][real].tolist() == [value for value, *_ in expected]
    if not coarse:
        assert found.labels[0][real].tolist() == [c for _, c, _, _ in expected]
        assert found.index[0][real].tolist() == [y * width + x for _, _, y, x in expected]


def test_published_classes_of_large_maps_are_wrong():
    """Defect D1: the quotient of place and plane is rounded to single precision before it is cut."""
    maps = torch.full((1, 80, 512, 512), -9.0)
    maps[0, torch.arange(80), 511, 511] = torch.arange(80.0)
    labels = find_peaks(maps, 80, as_published=True).labels[0]
    assert (labels != torch.arange(79, -1, -1)).sum() >= 16
    assert labels.max() == 80


def test_classes_of_large_maps_are_exact():
    maps = torch.full((1, 80, 512, 512), -9.0)
    maps[0, torch.arange(80), 511, 511] = torch.arange(80.0)
    found = find_peaks(maps, 80)
    assert torch.equal(found.labels[0], torch.arange(79, -1, -1))
    assert (found.index == 512 * 512 - 1).all()


def test_published_refuses_more_peaks_than_pixels():
    """Defect D2."""
    with pytest.raises(ValueError, match="300 peaks asked of 297 pixels"):
        decode_corners(random_stack(), image_size=(9, 11), num_peaks=300, as_published=True)


def test_more_peaks_and_detections_than_there_are():
    found = decode_corners(random_stack(), image_size=(9, 11), num_peaks=300, num_detections=10**6)
    assert len(found) == 2
    assert all(0 < len(each["boxes"]) < 300 for each in found)


def test_published_plateaus_are_all_peaks():
    """Defect D3: 36 of 36 pixels of a constant map."""
    assert (find_peaks(torch.zeros(1, 1, 6, 6), 36, as_published=True).logits > -torch.inf).sum() == 36


def test_a_plateau_has_one_peak():
    found = find_peaks(torch.zeros(1, 1, 6, 6), 36)
    assert (found.logits > -torch.inf).sum() == 1
    assert found.index[0, 0] == 0
    saturated = torch.full((1, 1, 9, 9), -3.0)
    saturated[0, 0, 2:5, 3:7] = 20.0
    found = find_peaks(saturated.half(), 5)
    assert found.logits[0, 0] == 20
    assert found.index[0, 0] == 2 * 9 + 3
    assert (found.logits[0] == 20).sum() == 1


# Edges


def test_no_peak_is_no_box():
    stack = random_stack()
    stack["top_left_heatmap"][0] = -torch.inf
    found = decode_corners(stack, image_size=(9, 11))
    assert [len(each["boxes"]) > 0 for each in found] == [False, True]
    assert found[0]["boxes"].shape == (0, 4)
    stack["top_left_heatmap"][1] = -torch.inf
    assert [len(each["boxes"]) for each in decode_corners(stack, image_size=(9, 11))] == [0, 0]


def test_one_image_of_one_class():
    stack = random_stack(1, 1, center=True)
    found = decode_corners(stack, image_size=(9, 11), embedding_threshold=9.0)
    confirmed = decode_corners(stack, image_size=(9, 11), embedding_threshold=9.0, center=True)
    assert len(found) == len(confirmed) == 1
    assert 0 < len(confirmed[0]["boxes"]) < len(found[0]["boxes"])


def test_no_image():
    assert decode_corners(random_stack(0), image_size=(9, 11)) == []


def one_box(size=16, inside=(3, 4, 9, 10)):
    """Maps that say one box, of class 1."""
    stack = random_stack(1, 2, (size, size))
    x1, y1, x2, y2 = inside
    for kind, x, y in (("top_left", x1, y1), ("bottom_right", x2, y2)):
        stack[f"{kind}_heatmap"].fill_(-20)[0, 1, y, x] = 4.0
        stack[f"{kind}_embedding"].zero_()
        stack[f"{kind}_offset"].fill_(0.5)
    return stack


@pytest.mark.parametrize(("inside", "left"), [((0, 4, 9, 10), 0), ((3, 4, 15, 10), 0), ((3, 4, 9, 10), 1)])
def test_corners_on_the_border(inside, left):
    options: dict[str, Any] = {"image_size": (64, 64), "num_peaks": 1}
    assert len(decode_corners(one_box(inside=inside), **options)[0]["boxes"]) == 1
    assert len(decode_corners(one_box(inside=inside), **options, no_border=True)[0]["boxes"]) == left


def test_boxes_of_no_width_stay_and_negative_ones_go():
    options: dict[str, Any] = {"image_size": (16, 16), "num_peaks": 1}
    assert len(decode_corners(one_box(inside=(3, 4, 3, 10)), **options)[0]["boxes"]) == 1
    assert len(decode_corners(one_box(inside=(4, 4, 3, 10)), **options)[0]["boxes"]) == 0


@pytest.mark.parametrize(("area_side", "center", "left"), [(100, 38, 1), (100, 30, 0), (200, 76, 0), (200, 90, 1)])
def test_centers_confirm_boxes(area_side, center, left):
    """The middle third of a box up to 22500 square pixels, the middle fifth of a larger one."""
    stack = one_box(256, (0, 0, area_side, area_side))
    stack |= {f"center_{name}": stack[f"top_left_{name}"].clone() for name in ("heatmap", "offset")}
    stack["center_heatmap"].fill_(-20)[0, 1, center, center] = 1.0
    found = decode_corners(stack, image_size=(256, 256), num_peaks=1, center=True)[0]
    assert len(found["boxes"]) == left
    if left:
        torch.testing.assert_close(
            found["scores"], (2 * torch.tensor([4.0]).sigmoid() + torch.tensor(1.0).sigmoid()) / 3
        )
        stack["center_heatmap"].fill_(-20)[0, 0, center, center] = 1.0
        assert len(decode_corners(stack, image_size=(256, 256), num_peaks=1, center=True)[0]["boxes"]) == 0


@pytest.mark.parametrize("name", ["top_left_heatmap", "bottom_right_offset", "top_left_embedding"])
def test_nan_is_told(name):
    stack = random_stack()
    stack[name][1] = torch.nan
    with pytest.raises(ValueError, match=f"{name} of image 1 holds a value that is not a number"):
        decode_corners(stack, image_size=(9, 11))


def test_one_nan_among_many_pixels_is_told():
    stack = random_stack(1, 4, (40, 40))
    stack["bottom_right_heatmap"][0, 3, 39, 39] = torch.nan
    with pytest.raises(ValueError, match="bottom_right_heatmap of image 0"):
        decode_corners(stack, image_size=(9, 11))


def test_bad_outputs_and_options_are_told():
    stack = random_stack()
    with pytest.raises(ValueError, match="lack center_heatmap, center_offset"):
        decode_corners(stack, image_size=(9, 11), center=True)
    with pytest.raises(ValueError, match=r"top_left_offset must be floating of shape \(2, 2, 9, 11\)"):
        decode_corners(stack | {"top_left_offset": torch.zeros(2, 1, 9, 11)}, image_size=(9, 11))
    with pytest.raises(ValueError, match="top_left_heatmap must be floating of shape"):
        decode_corners(stack | {"top_left_heatmap": torch.zeros(2, 9, 11)}, image_size=(9, 11))
    bad: list[dict[str, Any]] = [{"num_peaks": 0}, {"num_detections": 0}, {"kernel_size": 2}]
    for options in bad:
        with pytest.raises(ValueError, match=rf"{next(iter(options))} is .* found {next(iter(options.values()))}"):
            decode_corners(stack, image_size=(9, 11), **options)
    with pytest.raises(ValueError, match="embedding_threshold is a number of at least 0"):
        decode_corners(stack, image_size=(9, 11), embedding_threshold=float("nan"))


def test_outputs_stay_as_they_are_and_want_no_gradient():
    stack = {name: values.requires_grad_() for name, values in random_stack().items()}
    before = {name: values.detach().clone() for name, values in stack.items()}
    found = decode_corners(stack, image_size=(9, 11))[0]
    assert not any(values.requires_grad for values in found.values())
    assert all(torch.equal(before[name], values) for name, values in stack.items())


# Round trip


def perfect_outputs(targets, num_cells):
    """A network that has learned its targets: heat maps as logits, an embedding per object, offsets in place."""
    stack = {}
    for kind in ("top_left", "bottom_right", *(["center"] if "center_index" in targets else [])):
        heat, index = targets[f"{kind}_heatmap"], targets[f"{kind}_index"]
        shape = (len(heat), -1, *heat.shape[-2:])
        stack[f"{kind}_heatmap"] = heat.clamp(1e-4, 1 - 1e-4).logit()
        offsets, embeddings = torch.zeros(len(heat), 2, num_cells), torch.zeros(len(heat), 1, num_cells)
        for image, row in targets["objects"].nonzero().tolist():
            offsets[image, :, index[image, row]] = targets[f"{kind}_offset"][image, row]
            embeddings[image, 0, index[image, row]] = 2.0 * row
        stack[f"{kind}_offset"], stack[f"{kind}_embedding"] = offsets.view(shape), embeddings.view(shape)
    return stack


@st.composite
def spread_boxes(draw):
    """Boxes in different cells of a coarse raster, so that no two corners of a kind share a neighborhood."""
    cells = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6, unique=True))
    real = st.floats(0.1, 40.0)
    rows = [
        (100 * x + draw(real), 100 * y + draw(real), draw(st.floats(30, 55)), draw(st.floats(30, 55))) for x, y in cells
    ]
    boxes = torch.tensor([[x, y, x + width, y + height] for x, y, width, height in rows])
    return boxes, torch.tensor([draw(st.integers(0, 2)) for _ in cells])


@given(spread_boxes(), st.booleans(), st.sampled_from([(128, 128), (64, 64), (128, 96)]))
@settings(max_examples=25, deadline=None)
def test_perfect_outputs_decode_to_the_boxes(objects, center, grid_size):
    boxes, labels = objects
    sizes: dict[str, Any] = {"image_size": (511, 511)}
    targets = encode_corners([boxes], [labels], **sizes, grid_size=grid_size, num_classes=3, center=center)
    stack = perfect_outputs(targets, grid_size[0] * grid_size[1])
    found = decode_corners(stack, **sizes, num_peaks=10, center=center)[0]
    sure = found["scores"] > 0.99
    assert sure.sum() == len(boxes)
    order = (boxes[:, None] - found["boxes"][sure]).abs().amax(-1).argmin(1)
    torch.testing.assert_close(found["boxes"][sure][order], boxes, rtol=0, atol=1e-3)
    assert torch.equal(found["labels"][sure][order], labels)


def test_without_a_size_boxes_are_in_cells():
    stack = {
        **{f"{kind}_heatmap": torch.full((1, 1, 4, 8), -9.0) for kind in ("top_left", "bottom_right")},
        **{f"{kind}_embedding": torch.zeros(1, 1, 4, 8) for kind in ("top_left", "bottom_right")},
        **{f"{kind}_offset": torch.full((1, 2, 4, 8), 0.5) for kind in ("top_left", "bottom_right")},
    }
    stack["top_left_heatmap"][0, 0, 1, 2] = stack["bottom_right_heatmap"][0, 0, 3, 6] = 5.0
    [cells] = decode_corners(stack, num_peaks=1)
    assert cells["boxes"].tolist() == [[2.5, 1.5, 6.5, 3.5]]
    [pixels] = decode_corners(stack, image_size=(16, 32), num_peaks=1)
    assert pixels["boxes"].tolist() == [[10.0, 6.0, 26.0, 14.0]]
