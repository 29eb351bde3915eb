"""What RetinaNet and SSD share: a small trunk for small pictures, and the anchors of a trunk's features."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from headwise.require import require

Features = dict[str, Tensor]


def torchvision(network: str) -> Any:
    """The module torchvision.

    Args:
        network: Which network needs it, for the message.

    Returns:
        The module.

    Raises:
        ImportError: torchvision is missing.
    """
    require(f"networks.{network}", "vision")
    import torchvision

    return torchvision


class SmallTrunk(nn.Module):
    """A narrow ResNet whose features have the strides 8, 16, 32, ...

    Args:
        block: torchvision's BasicBlock.
        widths: Channels at the strides 4, 8, 16, ...; half of the first at stride 2. Two blocks a stride.
    """

    def __init__(self, block: Callable[..., nn.Module], widths: Sequence[int]) -> None:
        super().__init__()
        narrow = widths[0] // 2
        self.stem = nn.Sequential(
            nn.Conv2d(3, narrow, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU(inplace=True)
        )
        sizes = [narrow, *widths]
        self.stages = nn.ModuleList(_stage(block, before, after) for before, after in pairwise(sizes))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Features:
        """Map images (N, 3, H, W) to features by level, finest first."""
        features = self.stages[0](self.stem(image))
        levels: Features = OrderedDict()
        for number, stage in enumerate(self.stages[1:]):
            features = stage(features)
            levels[str(number)] = features
        return levels


def _stage(block: Callable[..., nn.Module], before: int, after: int) -> nn.Sequential:
    project = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))
    return nn.Sequential(block(before, after, 2, project), block(after, after))


class AnchorNetwork(nn.Module):
    """A network with a ``backbone``, images -> features by level, and torchvision's ``anchor_generator``."""

    backbone: nn.Module
    anchor_generator: nn.Module

    def anchors(self, image_size: tuple[int, int]) -> list[Tensor]:
        """The anchors of images of one size.

        Args:
            image_size: Height and width of the network's input, pixels.

        Returns:
            Per level (A_l, 4), x1, y1, x2, y2, on the network's device.
        """
        return level_anchors(self.backbone, self.anchor_generator, image_size)


def level_anchors(trunk: nn.Module, generator: Any, image_size: tuple[int, int]) -> list[Tensor]:
    """The anchors of every level of a trunk's features.

    Args:
        trunk: images -> features by level. It is only asked for shapes: nothing is computed, no state changes.
        generator: torchvision's AnchorGenerator or DefaultBoxGenerator.
        image_size: Height and width, pixels of the network's input.

    Returns:
        Per level (A_l, 4) float32 x1, y1, x2, y2, on the trunk's device: rows of cells, then cells, then shapes.
    """
    from torchvision.models.detection.image_list import ImageList

    state = {**dict(trunk.named_parameters()), **dict(trunk.named_buffers())}
    device = next(iter(state.values())).device
    shadow = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    # Two pictures: BatchNorm refuses to train on a single number.
    features = functional_call(trunk, shadow, torch.empty(2, 3, *image_size, device="meta"))
    sizes = [level.shape[-2:] for level in features.values()]
    # The generator looks at shapes, dtype and device of what it is given.
    images = ImageList(torch.empty(1, 0, *image_size), [image_size])
    (anchors,) = generator(images, [torch.empty(0, *size) for size in sizes])
    numbers = [
        height * width * number
        for (height, width), number in zip(sizes, generator.num_anchors_per_location(), strict=True)
    ]
    return [level.to(device) for level in torch.split(anchors, numbers)]


def check_detector(
    name: str, backbones: Sequence[str], num_classes: int, backbone: str | None, weights: str | None, size: str
) -> None:
    """Refuse options that do not fit a detector with anchors.

    Args:
        name: Of the function that builds it, for the message.
        backbones: That it knows.
        num_classes: Of its options; so the next three.
        backbone: See there.
        weights: See there.
        size: See there.

    Raises:
        ValueError: An unknown size, backbone or weights, no class, or a backbone or weights with "tiny".
    """
    if size not in ("full", "tiny") or (size == "tiny" and (backbone or weights)):
        raise ValueError(
            f"networks.{name}: size is 'full' or 'tiny', the latter without backbone and weights; found {size!r}, "
            f"{backbone!r}, {weights!r}."
        )
    if backbone not in (None, *backbones) or weights not in (None, "DEFAULT"):
        raise ValueError(
            f"networks.{name}: the backbones are {', '.join(backbones)}, the weights 'DEFAULT' or None; found "
            f"{backbone!r}, {weights!r}."
        )
    if num_classes < 1:
        raise ValueError(f"networks.{name}: at least one class is needed, found {num_classes}.")
