import math
from typing import Any

import pytest
import torch
from torch import nn

from headwise.networks import unet


def test_the_papers_network_to_the_unit():
    """31,030,658: the figure's layers, counted by hand level by level."""
    with torch.device("meta"):
        network = unet(2, in_channels=1, padding="valid")
    assert sum(parameter.numel() for parameter in network.parameters()) == 31_030_658
    assert network.margin == 92
    assert network.fitting(388) == 572
    assert network(torch.zeros(1, 1, 572, 572, device="meta"))["logits"].shape == (1, 2, 388, 388)


@pytest.mark.parametrize(
    ("depth", "wanted"),
    [(1, {1: 18, 2: 18, 3: 20, 4: 20}), (2, {1: 44, 3: 44, 4: 44, 5: 48})],
)
def test_fitting_is_the_least_input_that_covers(depth, wanted):
    """By hand: 18 - 4 = 14, halved 7, - 4 = 3, doubled 6, - 4 = 2."""
    network = unet(2, width=1, depth=depth, padding="valid").eval()
    assert {size: network.fitting(size) for size in wanted} == wanted
    least = wanted[1]
    with torch.no_grad():
        covered = network(torch.zeros(1, 3, least, least + 2**depth))["logits"].shape[-2:]
    assert covered == (least - 2 * network.margin, least + 2**depth - 2 * network.margin)


def test_every_fitting_size_is_taken_and_others_are_told():
    network = unet(2, width=1, depth=2, padding="valid").eval()
    fitting = {network.fitting(size) for size in range(1, 40)}
    for size in range(40, 76):
        image = torch.zeros(1, 3, size, size)
        if size in fitting:
            assert network(image)["logits"].shape[-1] == size - 2 * network.margin
        else:
            with pytest.raises(ValueError, match=f"images of {size} x {size} do not halve 2 times.*would"):
                network(image)


def test_without_padding_a_pixel_does_not_know_where_the_border_is():
    torch.manual_seed(0)
    network = unet(2, width=2, depth=2, padding="valid").eval()
    image = torch.rand(1, 3, 60, 60)
    wide = network(image)["logits"]
    cut = network(image[..., 4:56, 4:56])["logits"]
    torch.testing.assert_close(wide[..., 4:-4, 4:-4], cut)


@pytest.mark.parametrize("size", [(32, 48), (45, 61), (1, 7)])
def test_padding_takes_any_size(size):
    outputs = unet(3, width=2, depth=3)(torch.zeros(2, 3, *size))
    assert set(outputs) == {"logits"}
    assert outputs["logits"].shape == (2, 3, *size)


def test_auxiliary_levels_are_finest_first_at_the_ceiling():
    outputs = unet(2, width=2, depth=3, auxiliary=3)(torch.zeros(1, 3, 45, 61))
    assert set(outputs) == {"levels"}
    assert [tuple(level.shape[-2:]) for level in outputs["levels"]] == [(45, 61), (23, 31), (12, 16), (6, 8)]


def test_an_auxiliary_output_trains_its_level_and_what_is_coarser():
    network: Any = unet(2, width=2, depth=2, auxiliary=1)
    network(torch.rand(1, 3, 16, 16))["levels"][1].sum().backward()
    assert network.heads[0].weight.grad is None
    assert network.up[0][0].weight.grad is None
    assert network.heads[1].weight.grad.any()
    assert network.up[1][0].weight.grad.any()
    assert network.down[0][0].weight.grad.any()


def test_the_middle_of_finer_features_meets_the_wider_ones():
    """A network whose layers copy shows where the skip connection lands."""
    network: Any = unet(1, in_channels=1, width=1, depth=1, padding="valid")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)
        for pair in (network.down[0], network.up[0]):
            for convolution in (pair[0], pair[2]):
                convolution.weight[0, 0, 1, 1] = 1  # the first input channel is the skip connection
        network.heads[0].weight.fill_(1)
    image = torch.rand(1, 1, 20, 20)
    margin = network.margin
    torch.testing.assert_close(network(image)["logits"], image[..., margin:-margin, margin:-margin])


def test_weights_start_with_the_papers_deviation():
    torch.manual_seed(0)
    network: Any = unet(2, width=32, depth=2)
    for weight, fan_in in ((network.down[1][0].weight, 32 * 9), (network.widen[1].weight, 128)):
        assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)
    activation = network(torch.randn(1, 3, 32, 32))["logits"]
    assert 0.2 < float(activation.detach().std()) < 5


def test_batch_norm_replaces_biases():
    network: Any = unet(2, width=2, depth=1, batch_norm=True)
    layers = [type(layer).__name__ for layer in network.down[0]]
    assert layers == ["Conv2d", "BatchNorm2d", "ReLU"] * 2
    assert network.down[0][0].bias is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "width is at least 1, found 0"),
        ({"padding": "reflect"}, "'same' or 'valid', found 'reflect'"),
        ({"auxiliary": 5}, "0 to depth.*auxiliary=5"),
        ({"auxiliary": 1, "padding": "valid"}, "different parts of the image"),
    ],
)
def test_bad_options_are_told(options, words):
    with pytest.raises(ValueError, match=words):
        unet(**options)
