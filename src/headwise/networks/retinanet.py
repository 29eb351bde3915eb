"""RetinaNet: a feature pyramid whose levels share one tower for classes and one for boxes."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from headwise.networks.pyramids import AnchorNetwork, Features, SmallTrunk, check_detector, torchvision

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
SIDES: tuple[float, ...] = (32, 64, 128, 256, 512)  # of each level's smallest anchors, pixels
TINY_SIDES: tuple[float, ...] = (16, 32, 64)
TINY_WIDTHS = (32, 64, 96, 128)  # at the strides 4, 8, 16, 32
TINY_PYRAMID = 64  # channels


class RetinaNet(AnchorNetwork):
    """A trunk with a feature pyramid, torchvision's two towers, and torchvision's anchors; see `retinanet`.

    Args:
        backbone: images -> features by level, finest first, all of one width.
        head: torchvision's RetinaNetHead.
        generator: torchvision's AnchorGenerator.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, generator: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.anchor_generator = generator

    def forward(self, image: Tensor) -> dict[str, list[dict[str, Tensor]]]:
        """Map images (N, 3, H, W) to ``{"levels": [{"logits": (N, A_l, C), "deltas": (N, A_l, 4)}, ...]}``."""
        levels = [self.head([level]) for level in self.backbone(image).values()]
        return {"levels": [{"logits": each["cls_logits"], "deltas": each["bbox_regression"]} for each in levels]}


class _SmallPyramid(nn.Module):
    def __init__(self, vision: Any) -> None:
        super().__init__()
        self.trunk = SmallTrunk(vision.models.resnet.BasicBlock, TINY_WIDTHS)
        self.pyramid = vision.ops.FeaturePyramidNetwork(list(TINY_WIDTHS[1:]), TINY_PYRAMID)

    def forward(self, image: Tensor) -> Features:
        features: Features = self.pyramid(self.trunk(image))
        return features


def retinanet(
    num_classes: int,
    *,
    backbone: str | None = None,
    weights: Literal["DEFAULT"] | None = None,
    size: Literal["full", "tiny"] = "full",
) -> RetinaNet:
    """Build RetinaNet on torchvision's ResNet, feature pyramid, towers and anchors.

    "full" has five levels of strides 8 to 128, 256 channels, nine anchors a cell of sides 32 to 813; parts are named as
    in torchvision's RetinaNet, whose checkpoints (of 91 classes, their background included) load. "tiny" is for small
    pictures (128 x 128, objects of 12 pixels and more): a narrow ResNet, three levels of strides 8 to 32, 64 channels,
    towers with GroupNorm, nine anchors of sides 16 to 101.

    Every class starts at a probability of 0.01.

    Args:
        num_classes: Classes, without a background.
        backbone: "resnet18", "resnet34", "resnet50" (default), "resnet101" or "resnet152"; None with "tiny".
        weights: "DEFAULT": torchvision's best ImageNet weights for the backbone, for pictures normalized as ImageNet's,
            with BatchNorm frozen; None: random, with a BatchNorm that learns.
        size: "full" or "tiny".

    Returns:
        The network, in training mode; ``network.anchors(image_size)`` are its anchors.

    Raises:
        ImportError: torchvision is missing.
        ValueError: An unknown size, backbone or weights, no class, or a backbone or weights with "tiny".

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4; torchvision 0.29,
        models/detection/retinanet.py.

    Differs:
        kuangliu/pytorch-retinanet at 2d7c6633 has 36,133,912 parameters with ResNet-50 and 20 classes, this 32,595,224:
        theirs smooths two levels, not three, and takes the sixth level from the trunk, not from the fifth.
    """
    check_detector("retinanet", BACKBONES, num_classes, backbone, weights, size)
    vision = torchvision("retinanet")
    detection = vision.models.detection
    if size == "tiny":
        trunk: nn.Module = _SmallPyramid(vision)
        width, norm = TINY_PYRAMID, partial(nn.GroupNorm, 8)
    else:
        trunk = detection.backbone_utils.resnet_fpn_backbone(
            backbone_name=backbone or "resnet50",
            weights=weights,
            norm_layer=vision.ops.FrozenBatchNorm2d if weights else nn.BatchNorm2d,
            trainable_layers=5,
            returned_layers=[2, 3, 4],
            extra_blocks=vision.ops.feature_pyramid_network.LastLevelP6P7(256, 256),
        )
        width, norm = 256, None
    # torchvision's own generator of this network: three scales an octave, in whole pixels.
    sides = TINY_SIDES if size == "tiny" else SIDES
    scales = tuple((int(side), int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in sides)
    generator = detection.anchor_utils.AnchorGenerator(scales, ((0.5, 1.0, 2.0),) * len(scales))
    head = detection.retinanet.RetinaNetHead(width, 9, num_classes, norm_layer=norm)
    return RetinaNet(trunk, head, generator)
