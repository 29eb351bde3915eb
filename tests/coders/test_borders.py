"""U-Net's weight maps: recorded numbers, a slow reference, and the cases at the edges."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from headwise.coders.borders import encode_border_weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "extra_loss.npz")


def slow(label, w0, sigma, balance=True):
    """Distances by looking at every pixel of every object."""
    objects = {n: np.argwhere(label == n) for n in set(label.flat) - {0}}
    share = {inside: ((label > 0) == inside).sum() for inside in (False, True)}
    weights = np.zeros(label.shape)
    for y, x in np.ndindex(label.shape):
        weights[y, x] = label.size / (2 * share[bool(label[y, x] > 0)]) if balance else 1.0
        if label[y, x] == 0 and len(objects) > 1:
            distances = sorted(min(math.dist((y, x), pixel) for pixel in pixels) for pixels in objects.values())
            weights[y, x] += w0 * math.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return weights


@pytest.mark.parametrize("case", ["unet_three", "unet_none"])
@pytest.mark.parametrize("sigma", [5, 2])
def test_recorded_numbers(case, sigma):
    label = torch.from_numpy(GOLDEN[f"{case}/in/labels"])
    found = encode_border_weights(label, sigma=sigma, dtype=torch.float64)
    np.testing.assert_allclose(found.numpy(), GOLDEN[f"{case}/out/weight_sigma{sigma}"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("balance", [True, False])
def test_slow_reference(seed, balance):
    label = np.random.default_rng(seed).integers(-5, 4, (9, 7)).clip(min=0) * 10  # numbers with gaps
    found = encode_border_weights(torch.from_numpy(label), w0=4, sigma=1.5, balance=balance, dtype=torch.float64)
    np.testing.assert_allclose(found.numpy(), slow(label, 4, 1.5, balance), rtol=1e-12, atol=0)


def two(gap):
    label = torch.zeros(9, 20, dtype=torch.int64)
    label[2:7, 2:9], label[2:7, 9 + gap : 17] = 1, 2
    return label


def test_touching_objects_have_a_ridge_where_they_meet():
    weights = encode_border_weights(two(0), balance=False)
    assert (weights[2:7, 2:17] == 1).all()  # no background between them, and objects carry no border term
    assert weights[1].argmax().item() in {8, 9}
    assert weights[1, 8] > weights[1, 2] + 1
    near, far = encode_border_weights(two(1), balance=False), encode_border_weights(two(4), balance=False)
    assert near[4, 9] == pytest.approx(1 + 10 * math.exp(-4 / 50))
    assert near[4, 9] > far[4, 10] > 1


def test_one_object_and_none_have_no_border():
    one = (two(2) == 1).int()
    assert (encode_border_weights(one, balance=False) == 1).all()
    weights = encode_border_weights(one)
    assert weights[one > 0].sum().item() == pytest.approx(one.numel() / 2)
    assert weights[one == 0].sum().item() == pytest.approx(one.numel() / 2)
    assert (encode_border_weights(torch.zeros(3, 4, dtype=torch.uint8)) == 0.5).all()
    assert (encode_border_weights(torch.ones(3, 4, dtype=torch.int16)) == 0.5).all()


def test_images_are_apart():
    label = torch.stack([two(0), two(3), torch.zeros_like(two(0))])
    weights = encode_border_weights(label)
    assert weights.dtype == torch.float32
    for image, found in zip(label, weights, strict=True):
        assert torch.equal(encode_border_weights(image), found)
    assert encode_border_weights(label[:0]).shape == (0, 9, 20)


@pytest.mark.parametrize(
    ("label", "options", "words"),
    [
        (torch.zeros(4, 4), {}, "integer map.*found torch.float32 of shape"),
        (torch.zeros(4, 4, dtype=torch.bool), {}, "found torch.bool.*scipy.ndimage.label"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.long), {}, r"found torch.int64 of shape \(2, 1, 4, 4\)"),
        (torch.full((4, 4), -1), {}, "at least 0, found -1"),
        (torch.zeros(4, 4, dtype=torch.long), {"sigma": 0}, "sigma positive, found w0=10.0, sigma=0"),
        (torch.zeros(4, 4, dtype=torch.long), {"w0": -1}, "w0=-1"),
        (torch.zeros(4, 4, dtype=torch.long), {"w0": float("inf")}, "finite, and sigma positive, found w0=inf"),
        (torch.zeros(4, 4, dtype=torch.long), {"dtype": torch.int32}, "weights are fractions, found dtype=torch.int32"),
    ],
)
def test_message(label, options, words):
    with pytest.raises(ValueError, match=words):
        encode_border_weights(label, **options)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"needs scipy.*headwise\[data\]"):
        encode_border_weights(two(1))
