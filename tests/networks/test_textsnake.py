import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from headwise.networks import load_published, textsnake

SHAPES = json.loads((Path(__file__).parents[1] / "golden" / "textsnake_vgg16.json").read_text())


@pytest.fixture(scope="module")
def published_state():
    """Random weights under the authors' names and shapes, scaled so that activations stay of order 1."""
    random = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in SHAPES.items():
        spread = (2 / (shape[1] * shape[2] * shape[3])) ** 0.5 if len(shape) == 4 else 0.1
        state[name] = torch.randn(shape, generator=random) * spread
    return state


@pytest.fixture(scope="module")
def vgg(published_state):
    return load_published(textsnake("vgg16"), {"epoch": 3, "model": published_state}).eval()


@pytest.fixture(scope="module")
def light():
    torch.manual_seed(0)
    return textsnake("resnet18", width=8).eval()


def published_forward(state, image):
    """The published network, written with the authors' names and functional calls alone."""

    def conv(x, name, **options):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def up(x, name):
        return F.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2, padding=1)

    features, x = [], image
    for stage, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(convolutions):
            x = conv(x, f"backbone.stage{stage}.{2 * i}", padding=1).relu()
        x = F.max_pool2d(x, 2)
        features.append(x)
    x = up(features[4], "deconv5")
    for number in (4, 3, 2, 1):
        x = torch.cat([features[number - 1], x.relu()], 1)
        x = conv(x, f"merge{number}.conv1x1").relu()
        x = conv(x, f"merge{number}.conv3x3", padding=1).relu()
        x = up(x, f"merge{number}.deconv")
    return conv(conv(x, "predict.0", padding=1), "predict.1")


def test_number_of_parameters(vgg):
    assert sum(parameter.numel() for parameter in vgg.parameters()) == 19_123_015
    assert sorted(map(tuple, SHAPES.values())) == sorted(tuple(p.shape) for p in vgg.state_dict().values())


def test_vgg_computes_the_published_network(vgg, published_state):
    image = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = vgg(image)["maps"]
        expected = published_forward(published_state, image)
    assert maps.shape == (2, 7, 64, 32)
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (50, 64), (64, 65)])
def test_any_size_is_padded_and_cut_back(light, size):
    image = torch.randn(1, 3, *size)
    padded = F.pad(image, (0, -size[1] % 32, 0, -size[0] % 32))
    with torch.no_grad():
        maps = light(image)["maps"]
        assert maps.shape == (1, 7, *size)
        torch.testing.assert_close(maps, light(padded)["maps"][..., : size[0], : size[1]])


def test_vgg_takes_odd_sizes(vgg):
    with torch.no_grad():
        assert vgg(torch.randn(1, 3, 33, 20))["maps"].shape == (1, 7, 33, 20)


@pytest.mark.parametrize("backbone", ["vgg16", "resnet18"])
def test_every_parameter_is_trained(backbone):
    network = textsnake(backbone, num_channels=5)
    network(torch.randn(4, 3, 32, 32))["maps"].square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_light_network_starts_from_its_priors():
    torch.manual_seed(0)
    maps = textsnake("resnet18", width=16)(torch.randn(4, 3, 96, 96))["maps"]
    for channel in (1, 3):
        probability = torch.sigmoid(maps[:, channel] - maps[:, channel - 1]).mean()
        assert probability.item() == pytest.approx(0.1, abs=0.03)
    assert maps[:, 6].mean().item() == pytest.approx(8, abs=2)


def test_width_scales_the_light_network(light):
    counts = [sum(p.numel() for p in textsnake("resnet18", width=width).parameters()) for width in (8, 16, 32)]
    assert 3.5 < counts[1] / counts[0] < 4.2
    assert 3.5 < counts[2] / counts[1] < 4.2
    full, narrow = (textsnake("resnet18", width=width).state_dict() for width in (64, 32))
    assert list(full) == list(narrow)
    wide = {key: value.shape[0] for key, value in full.items() if value.ndim and not key.startswith("head.1")}
    assert all(num == 2 * narrow[key].shape[0] for key, num in wide.items())


def test_light_network_compiles_whole(light):
    image = torch.randn(1, 3, 20, 32)
    compiled = torch.compile(light, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(image)["maps"], light(image)["maps"])


@pytest.mark.parametrize("network", ["vgg", "light"])
def test_autocast(network, request):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = request.getfixturevalue(network)(torch.randn(1, 3, 64, 64))["maps"]
    assert maps.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "alexnet"}, "backbone is 'vgg16' or 'resnet18', found 'alexnet'"),
        ({"weights": "IMAGENET1K_V1"}, "weights is None or 'DEFAULT', found 'IMAGENET1K_V1'"),
        ({"num_channels": 0}, "num_channels is at least 1, found 0"),
        ({"width": 32}, "64 for vgg16 .* found 32"),
        ({"backbone": "resnet18", "width": 12}, "multiple of 8"),
        ({"backbone": "resnet18", "width": 32, "weights": "DEFAULT"}, "ImageNet weights, found 32"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        textsnake(**arguments)
