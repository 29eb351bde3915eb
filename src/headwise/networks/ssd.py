"""SSD: features of several sizes, each with its own convolutions for classes and boxes."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from headwise.networks.pyramids import AnchorNetwork, SmallTrunk, check_detector, torchvision

BACKBONES = ("vgg16", "mobilenet_v3_large")
TINY_WIDTHS = (32, 64, 96, 128, 128)  # at the strides 4, 8, 16, 32, 64
TINY_SCALES = (0.2, 0.34, 0.52, 0.72, 0.9)  # of the picture's size, at the strides 8 to 64, and one beyond


class SSD(AnchorNetwork):
    """A trunk, torchvision's heads of each level, and torchvision's default boxes; see `ssd`.

    Args:
        backbone: images -> features by level, finest first.
        head: torchvision's SSDHead or SSDLiteHead.
        generator: torchvision's DefaultBoxGenerator.
        num_classes: Classes, without the background.
    """

    def __init__(self, backbone: nn.Module, head: Any, generator: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_classes = num_classes
        self.anchor_generator = generator

    def forward(self, image: Tensor) -> dict[str, list[dict[str, Tensor]]]:
        """Map images (N, 3, H, W) to ``{"levels": [{"logits": (N, A_l, C + 1), "deltas": (N, A_l, 4)}, ...]}``."""
        classes, boxes = self.head.classification_head.module_list, self.head.regression_head.module_list
        return {
            "levels": [
                {"logits": _rows(of_classes(level), self.num_classes + 1), "deltas": _rows(of_boxes(level), 4)}
                for level, of_classes, of_boxes in zip(self.backbone(image).values(), classes, boxes, strict=True)
            ]
        }


def ssd(
    num_classes: int,
    *,
    backbone: str | None = None,
    weights: Literal["DEFAULT"] | None = None,
    size: Literal["full", "tiny"] = "full",
) -> SSD:
    """Build SSD on torchvision's trunks, heads and default boxes.

    "full" is torchvision's SSD300 ("vgg16", for pictures of 300 x 300) or SSDLite320 ("mobilenet_v3_large", 320 x 320),
    each of six levels; parts are named as in torchvision's, whose checkpoints (of 91 classes, their background
    included) load into ``ssd(90)``. "tiny" is for small pictures (96 x 96, objects of a seventh of the side and
    more): a narrow ResNet with four levels of strides 8 to 64 and six boxes a cell.

    Args:
        num_classes: Classes, without the background.
        backbone: "vgg16" (default) or "mobilenet_v3_large"; None with "tiny".
        weights: "DEFAULT": torchvision's ImageNet weights of the backbone that its SSD starts from; None: random.
            VGG16's want pictures of 0 to 255 less ImageNet's mean, and its first two convolutions stay as they are.
        size: "full" or "tiny".

    Returns:
        The network, in training mode; ``network.anchors(image_size)`` are its default boxes.

    Raises:
        ImportError: torchvision is missing.
        ValueError: An unknown size, backbone or weights, no class, or a backbone or weights with "tiny".

    Reference:
        Liu et al., SSD: single shot multibox detector, ECCV 2016; torchvision 0.29, models/detection/ssd.py and
        ssdlite.py.
    """
    check_detector("ssd", BACKBONES, num_classes, backbone, weights, size)
    vision = torchvision("ssd")
    detection = vision.models.detection
    if size == "tiny":
        generator = detection.anchor_utils.DefaultBoxGenerator([[2, 3]] * 4, scales=list(TINY_SCALES))
        trunk = SmallTrunk(vision.models.resnet.BasicBlock, TINY_WIDTHS)
        numbers = generator.num_anchors_per_location()
        head = detection.ssd.SSDHead(list(TINY_WIDTHS[1:]), numbers, num_classes + 1)
        return SSD(trunk, head, generator, num_classes)
    if backbone == "mobilenet_v3_large":
        build = detection.ssdlite320_mobilenet_v3_large
        pretrained = vision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V1
    else:
        build, pretrained = detection.ssd300_vgg16, vision.models.VGG16_Weights.IMAGENET1K_FEATURES
    whole = build(num_classes=num_classes + 1, weights_backbone=pretrained if weights else None)
    return SSD(whole.backbone, whole.head, whole.anchor_generator, num_classes)


def _rows(maps: Tensor, num_columns: int) -> Tensor:
    """(N, shapes * columns, H, W) as (N, H * W * shapes, columns)."""
    num_images, _, height, width = maps.shape
    apart = maps.reshape(num_images, -1, num_columns, height, width)
    return apart.permute(0, 3, 4, 1, 2).reshape(num_images, -1, num_columns)
