from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from headwise.data import (
    CORNER_MEAN,
    CORNER_STD,
    BoxAnnotation,
    BoxAugmentation,
    CornerAugmentation,
    Picture,
    SaccadeAugmentation,
    embedded_digits,
)
from headwise.data.augmentation.colors import distort_colors
from headwise.data.augmentation.text import IMAGENET_MEAN, IMAGENET_STD
from headwise.data.augmentation.windows import Window, keep_visible, mirror
from headwise.data.loading import BatchSampler, seeded_loader

COLORS = np.array([[250, 20, 30], [20, 250, 30], [30, 20, 250]], np.uint8)


def paint(boxes: Any, height: int = 120, width: int = 160, ignored: Any = None) -> Picture[BoxAnnotation]:
    """Plain boxes in red, green and blue on black."""
    image = np.zeros((height, width, 3), np.uint8)
    for color, (x1, y1, x2, y2) in zip(COLORS, boxes, strict=False):
        image[y1:y2, x1:x2] = color
    flags = np.zeros(len(boxes), np.bool_) if ignored is None else np.array(ignored)
    return Picture("p", image, BoxAnnotation(np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes)), flags))


THREE = [(10, 15, 50, 40), (70, 20, 110, 100), (20, 60, 60, 110)]


def bounds(image: torch.Tensor, label: int, mean: Any, std: Any) -> list[float]:
    """Edges of the pixels in which one color is the strongest and at least half there, to a pixel's fraction."""
    pixels = image * torch.tensor(std).reshape(3, 1, 1) + torch.tensor(mean).reshape(3, 1, 1)
    others = [channel for channel in range(3) if channel != label]
    cover = ((pixels[label] - pixels[others].amax(0)) / (220 / 255)).clamp(0, 1)
    edges = []
    for dim in (0, 1):
        profile = cover.amax(dim).double()
        inside = torch.nonzero(profile > 0.5).flatten()
        edges.append((float(inside[0]), float(inside[-1]) + 1))
    return [edges[0][0], edges[1][0], edges[0][1], edges[1][1]]


def follow(augmentation: Any, picture: Picture[BoxAnnotation], mean: Any, std: Any, seeds: range) -> list[float]:
    """Distances between the edges of what is seen and the boxes, for what is seen whole."""
    distances = []
    for seed in seeds:
        image, annotation = augmentation(picture, seed)[:2]
        size = image.shape[1]
        for box, label in zip(annotation.boxes, annotation.labels, strict=True):
            if box.min() > 1 and box.max() < size - 1 and min(box[2:] - box[:2]) > 3:
                distances += [abs(a - b) for a, b in zip(bounds(image, int(label), mean, std), box, strict=True)]
    return distances


def plain(size: int, **options: Any) -> CornerAugmentation:
    return CornerAugmentation(size, jitter=0, lighting=0, **options)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize(
    "augmentation",
    [lambda flip: plain(128, mirror=flip), lambda flip: plain(96, view=140, border=30, mirror=flip)],
)
def test_corner_boxes_stay_on_what_they_bound(augmentation, flip):
    distances = follow(augmentation(flip), paint(THREE), CORNER_MEAN, CORNER_STD, range(25))
    assert len(distances) > 60
    assert max(distances) <= 1.0  # bounds are counted in whole pixels
    assert np.mean(distances) < 0.4


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("ranges", [((60.0, 90.0),) * 3, ((16.0, 24.0),) * 3])
def test_saccade_boxes_stay_on_what_they_bound_enlarged_and_shrunk(flip, ranges):
    augmentation = SaccadeAugmentation(96, ranges=ranges, mirror=flip, jitter=0, lighting=0)
    distances = follow(augmentation, paint(THREE), CORNER_MEAN, CORNER_STD, range(25))
    assert len(distances) > 60
    assert max(distances) <= 1.0
    assert np.mean(distances) < 0.4


@pytest.mark.parametrize("options", [{}, {"zoom_out": 1.0}, {"crop": False}, {"mirror": 1.0}])
def test_anchor_boxes_stay_on_what_they_bound(options):
    augmentation = BoxAugmentation(128, distort=0, **options)
    distances = follow(augmentation, paint(THREE), IMAGENET_MEAN, IMAGENET_STD, range(25))
    assert len(distances) > 40
    assert max(distances) <= 1.0
    assert np.mean(distances) < 0.4


def test_a_mirrored_edge_goes_to_w_minus_x():
    picture = paint([(10, 15, 50, 40)], 100, 100)
    image, annotation = mirror(torch.from_numpy(picture.image).permute(2, 0, 1), picture.annotation)
    assert annotation.boxes.tolist() == [[50, 15, 90, 40]]
    assert image[0, 20, 50:90].min() == 250
    assert image[0, 20, :50].max() == image[0, 20, 90:].max() == 0
    augmented = BoxAugmentation(100, distort=0, zoom_out=1, crop=False, mirror=1)(picture, 0)[1]
    assert augmented.boxes.tolist() == [[50, 15, 90, 40]]


def test_a_window_of_the_picture_itself_changes_nothing():
    picture = embedded_digits(num_pictures=1)[0]
    window = Window(128, 128, 0, 0, 128)
    assert np.array_equal(window.cut(picture.image).permute(1, 2, 0).numpy(), picture.image)
    annotation, kept = window.see(picture.annotation, picture.image.shape)
    assert np.array_equal(annotation.boxes, picture.annotation.boxes)
    assert kept.tolist() == [1.0] * len(annotation)


def test_a_window_shows_the_mean_color_outside_and_cuts_boxes():
    """By hand: 20 pixels of a 40 x 25 box remain, and nothing of a box beyond."""
    picture = paint([(10, 15, 50, 40), (70, 20, 110, 100)], ignored=[True, False])
    window = Window(120, 160, -10, -20, 50)
    image = window.cut(picture.image)
    assert image[:, :10].float().mean((1, 2)).tolist() == [120, 114, 104]
    assert image[:, :, :20].float().mean((1, 2)).tolist() == [120, 114, 104]
    assert image[:, 10:25, 20:].max() == 0
    annotation, kept = window.see(picture.annotation, picture.image.shape)
    assert annotation.boxes.tolist() == [[30, 25, 50, 50]]
    assert annotation.labels.tolist() == [0]
    assert annotation.ignored.tolist() == [True]
    assert kept == pytest.approx([20 * 25 / (40 * 25)])
    assert Window(120, 160, 500, 500, 50).see(picture.annotation, picture.image.shape)[1].shape == (0,)
    assert Window(120, 160, 500, 500, 50).cut(picture.image).float().mean((1, 2)).tolist() == [120, 114, 104]


def test_enlarging_a_window_is_enlarging_the_picture():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].double(), (90, 120), mode="bilinear"
    )[0]
    cut = Window(90, 120, 20, 35, 50).cut(image).double()
    assert (cut - whole[:, 20:70, 35:85]).abs().max() <= 3  # OpenCV keeps five bits of a position


@pytest.mark.parametrize(
    "augmentation", [CornerAugmentation(64), BoxAugmentation(64), SaccadeAugmentation(64, ranges=((8, 32), (32, 64)))]
)
def test_everything_random_comes_from_the_seed(augmentation):
    picture = embedded_digits(num_pictures=3)[2]
    np.random.seed(1)  # noqa: NPY002  the global state must not matter
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = augmentation(picture, 7)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    second = augmentation(picture, 7)
    assert torch.equal(first[0], second[0])
    assert np.array_equal(first[1].boxes, second[1].boxes)
    assert not torch.equal(first[0], augmentation(picture, 8)[0])
    assert first[0].dtype == torch.float32
    assert first[0].shape == (3, 64, 64)


@pytest.mark.parametrize(
    "augmentation", [CornerAugmentation(64), BoxAugmentation(64), SaccadeAugmentation(64, ranges=((8, 32), (32, 64)))]
)
@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (64, 64)])
def test_pictures_without_objects_and_of_odd_shapes(augmentation, shape):
    for seed in range(8):
        image, annotation = augmentation(paint([], *shape), seed)[:2]
        assert image.shape == (3, 64, 64)
        assert image.isfinite().all()
        assert len(annotation) == 0


def test_corner_windows_have_the_published_scales_and_places():
    """The scale of a box tells the window's, its place the window's center."""
    picture = paint([(0, 0, 1000, 800)], 800, 1000)
    augmentation = plain(511, mirror=0)
    scales, centers = set(), []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        side = int(511 * generator.choice(augmentation.scales))
        scales.add(round(side / 511, 1))
        centers.append([augmentation._center(generator, length) for length in (800, 1000)])
    assert scales == {0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3}
    assert np.min(centers) >= 128
    assert (np.max(centers, axis=0) < [800 - 128, 1000 - 128]).all()
    assert (np.min(centers, axis=0) < 250).all()
    image, annotation = augmentation(picture, 3)
    black = -torch.tensor(CORNER_MEAN) / torch.tensor(CORNER_STD)
    left, top, right, bottom = annotation.boxes[0].round().astype(int)
    seen = image[:, top + 2 : bottom - 2, left + 2 : right - 2]
    assert torch.allclose(
        seen[1:],
        torch.tensor([20.0, 30.0])[:, None, None] / 255 / torch.tensor(CORNER_STD)[1:, None, None]
        + black[1:, None, None],
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("length", "least"), [(1000, 128), (257, 128), (256, 64), (129, 64), (128, 32), (2, 0), (1, 0)]
)
def test_the_border_is_halved_until_the_picture_is_large_enough(length, least):
    augmentation = plain(64)
    draws = {augmentation._center(np.random.default_rng(seed), length) for seed in range(300)}
    assert least <= min(draws) <= least + length // 20
    assert max(draws) <= length - least - 1 if least else max(draws) < length


def test_slivers_are_objects_as_published_and_ignored_on_request():
    picture = paint([(10, 15, 50, 40)], ignored=[False])
    published = [plain(64, border=8)(picture, seed)[1] for seed in range(200)]
    mended = [plain(64, border=8, min_kept=0.5)(picture, seed)[1] for seed in range(200)]
    assert not any(annotation.ignored.any() for annotation in published)
    assert [len(annotation) for annotation in published] == [len(annotation) for annotation in mended]
    assert any(annotation.ignored.any() for annotation in mended)
    assert any((~annotation.ignored).any() for annotation in mended)


def test_saccade_gives_the_reference_a_side_of_its_own_range():
    for side, (low, high) in ((20, (16, 32)), (60, (32, 96)), (110, (96, 255)), (300, (96, 255)), (3, (16, 32))):
        picture = paint([(150, 150, 150 + side, 150 + side // 2)], 480, 640)
        sides = []
        for seed in range(40):
            _, annotation, kept = SaccadeAugmentation(mirror=0)(picture, seed)
            assert len(annotation) == 1
            assert kept[0] > 0.4
            if kept[0] > 0.999:
                sides.append(float((annotation.boxes[0, 2:] - annotation.boxes[0, :2]).max()))
        assert low - 1 <= min(sides) < max(sides) <= high + 1
        assert max(sides) - min(sides) > (high - low) / 2


def test_saccade_holds_the_whole_reference_or_is_centered_near_it():
    picture = paint([(300, 200, 420, 260)], 480, 640)
    whole = []
    for seed in range(60):
        _, annotation, kept = SaccadeAugmentation(mirror=0)(picture, seed)
        middle = annotation.boxes[0].reshape(2, 2).mean(axis=0)
        near = bool((abs(middle - 127) <= 16).all())
        assert near or kept[0] > 0.99
        whole.append(not near)
    assert 10 < sum(whole) < 50


def test_saccade_tells_how_much_of_an_object_is_left():
    """Its own shares equal those of the boxes moved without clipping."""
    data = embedded_digits(num_pictures=10, size=256, min_side=14, max_side=60)
    cut = 0
    for index in range(10):
        picture = data[index]
        for seed in range(5):
            _, annotation, kept = SaccadeAugmentation(128, ranges=((12, 32), (32, 80)), mirror=0)(picture, seed)
            assert kept.shape == (len(annotation),)
            assert ((kept > 0) & (kept <= 1)).all()
            inside = (annotation.boxes > 0).all(axis=1) & (annotation.boxes < 128).all(axis=1)
            assert (kept[inside] > 0.999).all()
            cut += int((kept < 0.9).sum())
    assert cut > 10


def test_crowds_are_no_reference_and_stay_ignored():
    picture = paint([(0, 0, 100, 80), (300, 300, 320, 330)], 480, 640, ignored=[True, False])
    for seed in range(20):
        _, annotation, _ = SaccadeAugmentation()(picture, seed)
        assert 1 in annotation.labels
        assert annotation.ignored.tolist() == [label == 0 for label in annotation.labels]


def test_ranges_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match=r"ranges .* must be 0 < low <= high <= size, which is 128"):
        SaccadeAugmentation(128)


def test_colors_by_hand():
    """One pixel: with the factors known, each change is a line of arithmetic."""
    image = torch.tensor([0.2, 0.4, 0.6]).reshape(3, 1, 1)
    for seed in range(10):
        generator = np.random.default_rng(seed)
        names = generator.permutation(["brightness", "contrast", "saturation"])
        gray = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6
        expected = np.array([0.2, 0.4, 0.6])
        for name in names:
            factor = 1 + generator.uniform(-0.4, 0.4)
            expected = factor * expected + (1 - factor) * (0 if name == "brightness" else gray)
        found = distort_colors(image, np.random.default_rng(seed), 0.4, 0.0)
        assert found.flatten().tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert image.flatten().tolist() == pytest.approx([0.2, 0.4, 0.6])


def test_light_moves_along_the_colors_of_natural_pictures():
    """Mostly all three together, and by a tenth of the components' variances."""
    image = torch.zeros(3, 4, 5)
    lights = torch.stack([distort_colors(image, np.random.default_rng(seed), 0.0, 0.1) for seed in range(400)])
    assert torch.equal(lights, lights[:, :, :1, :1].expand_as(lights))
    shifts = lights[:, :, 0, 0].numpy()
    assert np.linalg.svd(shifts, compute_uv=False) / np.sqrt(400) == pytest.approx(
        0.1 * np.array([0.2142, 0.0182, 0.0034]), rel=0.1
    )
    assert np.corrcoef(shifts.T).min() > 0.95


def test_a_crop_of_an_anchor_detector_drops_objects_whose_centers_left():
    augmentation = BoxAugmentation(128, distort=0, zoom_out=1, mirror=0)
    counts = {len(augmentation(paint(THREE), seed)[1]) for seed in range(40)}
    assert counts >= {1, 2, 3}
    assert 0 not in counts


def test_visible_boxes_are_those_with_area_as_float32():
    annotation = paint(THREE).annotation
    boxes = np.array([[5, 5, 5 + 1e-9, 9], [-5, -5, 5, 5], [20, 20, 30, 30]])
    seen, kept = keep_visible(annotation, boxes, np.zeros(4), np.full(4, 20.0))
    assert seen.labels.tolist() == [1]
    assert kept.tolist() == [0.25]


def test_workers_give_the_same_pictures():
    def first(num_workers: int) -> list[torch.Tensor]:
        data = embedded_digits(num_pictures=4, size=96, max_side=60)
        sampler = BatchSampler(4, 4, seed=1, last_step=2)
        loader = seeded_loader(data, CornerAugmentation(64), list, sampler, num_workers=num_workers)
        return [image for batch in loader for image, _ in batch]

    alone, together = first(0), first(2)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert not any(torch.equal(one, other) for one, other in pairwise(alone))
