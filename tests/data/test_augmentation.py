import math

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from headwise.data.annotation import Picture, TextAnnotation
from headwise.data.augmentation.boxes import BoxAugmentation, CornerAugmentation
from headwise.data.augmentation.saccade import SaccadeAugmentation
from headwise.data.augmentation.text import IMAGENET_MEAN, IMAGENET_STD, TextAugmentation, normalize
from headwise.data.embedded.text import embedded_text

DOTS = [(40.0, 30.0), (90.0, 35.0), (60.0, 80.0)]


def dotted() -> Picture:
    """A triangle whose corners are marked in red, green and blue blobs, centered to the sub-pixel."""
    y, x = np.mgrid[0:120, 0:140]
    blobs = [np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / 18) for dot in DOTS]
    image = (np.stack(blobs, axis=-1) * 255).round().astype(np.uint8)
    return Picture("dots", image, TextAnnotation((np.array(DOTS),), (False,), ("dots",)))


def centroids(image: torch.Tensor) -> np.ndarray:
    channels = image.double().clamp(min=0)
    grid = torch.arange(channels.shape[-1], dtype=torch.float64)
    mass = channels.sum((1, 2))
    return torch.stack([(channels.sum(1) * grid).sum(1) / mass, (channels.sum(2) * grid).sum(1) / mass], 1).numpy()


@pytest.mark.parametrize("mirror", [0.0, 1.0])
@pytest.mark.parametrize("degrees", [0.0, 15.0])
def test_points_stay_on_what_they_point_at(mirror, degrees):
    augmentation = TextAugmentation(96, scale=(0.98, 1.0), degrees=degrees, mirror=mirror, keep=0.5)
    augmentation._transform.transforms = augmentation._transform.transforms[:5]  # geometry only
    followed = 0
    for seed in range(12):
        image, annotation = augmentation(dotted(), seed)
        pixels = image * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
        if len(annotation) and annotation.polygons[0].min() > 12 and annotation.polygons[0].max() < 84:
            followed += 1
            # A half-pixel mistake shows: the centroids are exact to a few hundredths.
            assert np.abs(centroids(pixels) - annotation.polygons[0]).max() < 0.12
    assert followed >= 3


def test_a_mirrored_point_goes_to_w_minus_1_minus_x():
    augmentation = TextAugmentation(100, scale=(1.0, 1.0), degrees=0.0, mirror=1.0)
    square = np.array([[10.0, 20.0], [30.0, 20.0], [30.0, 40.0], [10.0, 40.0]])
    picture = Picture("p", np.zeros((100, 100, 3), np.uint8), TextAnnotation((square,), (False,), ("w",)))
    for seed in range(20):
        _, annotation = augmentation(picture, seed)
        polygon = annotation.polygons[0]
        if np.ptp(polygon[:, 0]) == pytest.approx(20) and np.ptp(polygon[:, 1]) == pytest.approx(20):
            assert np.allclose(polygon[:, 0], 99 - square[:, 0])
            return
    pytest.fail("no seed kept the scale")


def test_torchvision_keypoint_conventions_are_the_ones_we_correct_for():
    points = tv_tensors.KeyPoints(torch.tensor([[0.0, 0.0]], dtype=torch.float64), canvas_size=(10, 10))
    assert v2.functional.horizontal_flip(points).tolist() == [[9.0, 0.0]]
    continuous = tv_tensors.wrap(points.as_subclass(torch.Tensor) + 0.5, like=points)
    assert v2.functional.resize(continuous, [20, 20]).tolist() == [[1.0, 1.0]]


def test_cut_words_are_ignored_and_lost_words_dropped():
    def square(x: float, y: float) -> np.ndarray:
        return np.array([[x, y], [x + 20, y], [x + 20, y + 20], [x, y + 20]])

    polygons = (square(5, 5), square(-12, 50), square(200, 5), square(-2, 70))
    annotation = TextAnnotation(polygons, (False,) * 4, ("inside", "cut", "lost", "almost"))
    sifted = TextAugmentation(100, keep=0.7)._sift(annotation, list(polygons))
    assert sifted.words == ("inside", "cut", "almost")
    assert sifted.ignored == (False, True, False)


def test_the_seed_decides_and_the_global_state_is_untouched():
    picture = embedded_text()[0]
    augmentation = TextAugmentation(128)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, first_annotation = augmentation(picture, 11)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second, second_annotation = augmentation(picture, 11)
    assert torch.equal(first, second)
    assert np.array_equal(np.concatenate(first_annotation.polygons), np.concatenate(second_annotation.polygons))
    assert not torch.equal(first, augmentation(picture, 12)[0])


def test_a_picture_without_words_passes():
    picture = Picture("empty", np.zeros((80, 90, 3), np.uint8), TextAnnotation((), (), ()))
    image, annotation = TextAugmentation(64)(picture, 0)
    assert image.shape == (3, 64, 64)
    assert len(annotation) == 0


def test_normalize_takes_arrays_and_tensors_alike():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    result = normalize(image)
    assert torch.equal(result, normalize(torch.from_numpy(image).permute(2, 0, 1)))
    assert result[1, 2, 3].item() == pytest.approx((image[2, 3, 1] / 255 - 0.456) / 0.224, rel=1e-5)


@pytest.mark.parametrize(
    ("augmentation", "options", "words"),
    [
        (CornerAugmentation, {"size": 0}, "size must be a whole number of pixels, at least 1, found 0"),
        (CornerAugmentation, {"view": 64.5}, "view must be a whole number of pixels, at least 1, found 64.5"),
        (CornerAugmentation, {"scales": ()}, r"scales must be one or more positive numbers, found \(\)"),
        (CornerAugmentation, {"border": -1}, "border must be at least 0 and finite, found -1"),
        (CornerAugmentation, {"mirror": 50}, r"mirror must be in \[0, 1\], found 50"),
        (CornerAugmentation, {"jitter": math.nan}, "jitter must be at least 0 and finite, found nan"),
        (CornerAugmentation, {"min_kept": 5}, r"min_kept must be in \[0, 1\], found 5"),
        (SaccadeAugmentation, {"scales": (-1.0,)}, "scales must be one or more positive numbers"),
        (SaccadeAugmentation, {"lighting": -0.1}, "lighting must be at least 0 and finite, found -0.1"),
        (BoxAugmentation, {"zoom_out": 0.5}, "zoom_out must be at least 1 and finite, found 0.5"),
        (BoxAugmentation, {"mean": (123.7, 116.3, 103.5)}, r"mean must be three numbers in \[0, 1\]"),
        (BoxAugmentation, {"std": (0.0, 1.0, 1.0)}, r"std must be three numbers in \(0, 1\]"),
        (TextAugmentation, {"scale": (1.0, 0.5)}, "scale must be two shares"),
        (TextAugmentation, {"degrees": math.nan}, "degrees must be at least 0 and finite, found nan"),
        (TextAugmentation, {"keep": 70}, r"keep must be in \[0, 1\], found 70"),
    ],
)
def test_options_out_of_their_range(augmentation, options, words):
    with pytest.raises(ValueError, match=f"{augmentation.__name__}: {words}"):
        augmentation(**{"size": 255} | options)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 5, 3)), np.zeros((4, 5), np.uint8), torch.rand(3, 4, 5), torch.zeros(4, 5, 3).byte()]
)
def test_only_bytes_of_three_colors_are_normalized(image):
    """What is in [0, 1] already came out as black."""
    with pytest.raises(ValueError, match="normalize: a picture is uint8 RGB"):
        normalize(image)


@pytest.mark.parametrize(("mean", "std"), [((124, 117, 104), (58, 57, 57)), ((0.5, 0.5, 0.5), (0.2, 0.0, 0.2))])
def test_statistics_are_those_of_pixels_in_0_to_1(mean, std):
    with pytest.raises(ValueError, match=r"normalize: mean is in \[0, 1\] .* by 255"):
        normalize(torch.zeros(3, 4, 5).byte(), mean, std)
