"""RetinaNet and SSD: torchvision's networks of the same weights, their anchors, and the small ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import headwise as hw
from headwise import networks
from headwise.coders import anchors as coder


def their_retinanet():
    trunk = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return detection.RetinaNet(trunk, num_classes=7)


MODELS: dict[str, tuple[Any, Any, tuple[int, int]]] = {
    "retinanet": (their_retinanet, lambda: networks.retinanet(7, backbone="resnet18"), (96, 128)),
    "ssd": (
        lambda: detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=8),
        lambda: networks.ssd(7),
        (300, 300),
    ),
    "ssdlite": (
        lambda: detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=8),
        lambda: networks.ssd(7, backbone="mobilenet_v3_large"),
        (320, 320),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_torchvision_of_the_same_weights(name):
    make_theirs, make_ours, size = MODELS[name]
    torch.manual_seed(0)
    theirs, ours = make_theirs().eval(), make_ours().eval()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_var is not None:
            part.running_var.fill_(2.0)
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        features = list(theirs.backbone(image).values())
        wanted, levels = theirs.head(features), ours(image)["levels"]
    torch.testing.assert_close(torch.cat([level["logits"] for level in levels], 1), wanted["cls_logits"])
    torch.testing.assert_close(torch.cat([level["deltas"] for level in levels], 1), wanted["bbox_regression"])
    places = theirs.anchor_generator(ImageList(image, [size] * 2), features)[0]
    found = ours.anchors(size)
    torch.testing.assert_close(torch.cat(found), places)
    assert [len(each) for each in found] == [level["logits"].shape[1] for level in levels]


def test_retinanet_with_resnet50():
    network = networks.retinanet(20)
    # The authors', one more smoothing, and a sixth level that reads 256 channels, not 2048.
    smoothing, narrower = 9 * 256 * 256 + 256, 9 * 256 * (2048 - 256)
    assert sum(each.numel() for each in network.parameters()) == 36_133_912 + smoothing - narrower == 32_595_224
    assert [len(level) for level in network.anchors((600, 600))] == [9 * cells**2 for cells in (75, 38, 19, 10, 5)]


TINY: dict[str, Any] = {"retinanet": networks.retinanet, "ssd": networks.ssd}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [(128, 128), (97, 130)])
def test_tiny(name, size):
    torch.manual_seed(0)
    network = TINY[name](10, size="tiny")
    state = {key: value.clone() for key, value in network.state_dict().items()}
    places = network.anchors(size)
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    image = torch.rand(2, 3, *size)
    outputs = network(image)
    boxes = [torch.tensor([[10.0, 20, 40, 70], [60, 60, 90, 90]]), torch.zeros(0, 4)]
    options: dict[str, Any] = {} if name == "retinanet" else {"background": 0.5, "forced": "best"}
    targets = coder.encode_boxes(boxes, [torch.tensor([3, 9]), torch.zeros(0).long()], places, **options)
    criterion = hw.presets.retinanet() if name == "retinanet" else hw.presets.ssd(num_levels=4)
    criterion(outputs, targets).total.backward()
    gradients = {key: each.grad for key, each in network.named_parameters() if each.grad is not None}
    assert set(gradients) == {key for key, _ in network.named_parameters()}
    assert all(each.isfinite().all() for each in gradients.values())
    assert all(each.any() for key, each in gradients.items() if key.endswith("stem.0.weight"))
    assert sum(each.numel() for each in network.parameters()) < 2_500_000


def test_every_class_starts_at_one_in_a_hundred():
    for network in (networks.retinanet(3, size="tiny"), networks.retinanet(3, backbone="resnet18")):
        scores = torch.cat([level["logits"] for level in network(torch.rand(1, 3, 64, 64))["levels"]], 1).sigmoid()
        assert scores.mean().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(
    ("build", "size", "sides"),
    [
        (networks.retinanet, 128, (20, 35, 50, 70)),
        (networks.retinanet, 96, (22, 30, 40, 50, 60)),
        (networks.ssd, 96, (22, 30, 40, 50, 60)),
    ],
)
def test_a_digit_of_any_size_has_an_anchor_that_fits(build, size, sides):
    """On 96 pixels the embedded digits, as the tiny recipes draw them."""
    places = build(10, size="tiny").anchors((size, size))
    for side in sides:
        box = torch.tensor([[30.0, 30, 30 + 0.7 * side, 30 + side]])
        label = coder.encode_boxes([box], [torch.tensor([0])], places, forced="none")["levels"]
        assert any((level["label"] > 0).any() for level in label), side


def test_pretrained_backbone_freezes_its_norm(monkeypatch):
    asked = {}

    def build(**options):
        asked.update(options)
        return nn.Identity()

    monkeypatch.setattr(detection.backbone_utils, "resnet_fpn_backbone", build)
    networks.retinanet(2, weights="DEFAULT")
    assert asked["norm_layer"] is FrozenBatchNorm2d
    assert asked["backbone_name"] == "resnet50"
    networks.retinanet(2)
    assert asked["norm_layer"] is nn.BatchNorm2d


@pytest.mark.parametrize("make", TINY.values(), ids=TINY)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 0}, "at least one class is needed, found 0"),
        ({"size": "small"}, "'full' or 'tiny'.*found 'small'"),
        ({"size": "tiny", "weights": "DEFAULT"}, "without backbone and weights.*'DEFAULT'"),
        ({"backbone": "alexnet"}, "the backbones are .*found 'alexnet'"),
        ({"weights": "BEST"}, "'DEFAULT' or None; found None, 'BEST'"),
    ],
)
def test_message(make, options, words):
    with pytest.raises(ValueError, match=words):
        make(**({"num_classes": 3} | options))
