"""TextSnake's U-Net: seven maps at the image's resolution, on VGG16 (as published) or ResNet-18 (light)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headwise.require import require
from headwise.whole import check_whole

COARSEST = 32  # stride of the deepest features: heights and widths are padded to its multiples
TEXT_PRIOR = 0.1  # share of pixels that is text, before anything is learned
RADIUS_UNIT = 16.0  # pixels: radii of about 1 in this unit are learned as fast as sines and cosines


def textsnake(
    backbone: Literal["vgg16", "resnet18"] = "vgg16",
    weights: Literal["DEFAULT"] | None = None,
    num_channels: int = 7,
    *,
    width: int = 64,
) -> nn.Module:
    """Build the U-Net that gives text region, center line, sin, cos and radius.

    ``network(image)`` takes images (N, 3, H, W) and returns ``{"maps": (N, num_channels, H, W)}``, raw. H
    and W may be any positive numbers: images are padded with 0 on the right and at the bottom to multiples
    of 32 inside, and the maps cut back.

    Args:
        backbone: ``"vgg16"``: the published network, of 19,123,015 parameters with 7 channels; random
            weights start as torchvision's. ``"resnet18"``: a light one: decoder with BatchNorm, head at half
            resolution and bilinear from there; with 7 channels it starts at a text probability of 0.1 and a
            radius of 8 pixels.
        weights: ``"DEFAULT"``: torchvision's best ImageNet weights for the backbone; None: random.
        num_channels: output channels.
        width: channels of ResNet-18's first stage, a multiple of 8; the decoder's in proportion. Other than
            64 takes no ImageNet weights. VGG16 knows 64 only.

    Returns:
        The network, in training mode.

    Raises:
        ImportError: torchvision is missing.
        ValueError: an unknown backbone or weights, a width that does not fit, or no channels.

    Reference:
        Long et al., TextSnake, ECCV 2018, section 3.2; princewang1994/TextSnake.pytorch at b4ee996d,
        network/textnet.py and network/vgg.py.
    """
    if weights not in (None, "DEFAULT"):
        raise ValueError(f"networks.textsnake: weights is None or 'DEFAULT', found {weights!r}.")
    check_whole("networks.textsnake", num_channels=num_channels, width=width)
    if width < 8 or width % 8 or (width != 64 and (backbone == "vgg16" or weights)):
        rule = "width is a multiple of 8, and 64 for vgg16 and for ImageNet weights"
        raise ValueError(f"networks.textsnake: {rule}, found {width} (backbone {backbone!r}, weights {weights!r}).")
    if backbone == "vgg16":
        return VggTextSnake(weights, num_channels)
    if backbone == "resnet18":
        return ResNetTextSnake(weights, num_channels, width)
    raise ValueError(f"networks.textsnake: backbone is 'vgg16' or 'resnet18', found {backbone!r}.")


class VggTextSnake(nn.Module):
    """The published network: VGG16 cut after each pooling, four merges with transposed convolutions."""

    def __init__(self, weights: str | None, num_channels: int) -> None:
        super().__init__()
        self.stages = _vgg16_stages(weights)
        self.deepest = nn.ConvTranspose2d(512, 256, 4, stride=2, padding=1)
        self.merges = nn.ModuleList(UpsampledMerge(6 * width, width) for width in (128, 64, 32, 16))
        self.head = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, num_channels, 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W) to ``{"maps": (N, num_channels, H, W)}``."""
        features = [_pad(image)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        merged = self.deepest(features[-1])
        for merge, finer in zip(self.merges, features[-2:0:-1], strict=True):
            merged = merge(finer, F.relu(merged))
        return {"maps": _crop(self.head(merged), image)}


class UpsampledMerge(nn.Module):
    """Finer features and upsampled coarser ones, mixed, narrowed and upsampled once more."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(in_channels, in_channels, 1)
        self.narrow = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.upsample = nn.ConvTranspose2d(out_channels, out_channels, 4, stride=2, padding=1)

    def forward(self, finer: Tensor, coarser: Tensor) -> Tensor:
        """Merge (N, a, h, w) with (N, b, h, w), a + b = in_channels, into (N, out_channels, 2h, 2w)."""
        mixed = F.relu(self.mix(torch.cat([finer, coarser], dim=1)))
        upsampled: Tensor = self.upsample(F.relu(self.narrow(mixed)))
        return upsampled


class ResNetTextSnake(nn.Module):
    """The light network: ResNet-18, a decoder with BatchNorm, a head at half resolution."""

    unit: Tensor

    def __init__(self, weights: str | None, num_channels: int, width: int) -> None:
        super().__init__()
        self.stages = _resnet18_stages(weights, width)
        widths = [8 * width, 2 * width, width, width // 2, width // 2]
        skips = [4 * width, 2 * width, width, width]
        self.merges = nn.ModuleList(
            _conv_norm_relu(coarse + skip, out) for (coarse, out), skip in zip(pairwise(widths), skips, strict=True)
        )
        self.head = nn.Sequential(_conv_norm_relu(width // 2, width // 2), nn.Conv2d(width // 2, num_channels, 1))
        self.register_buffer("unit", torch.ones(num_channels, 1, 1), persistent=False)
        if num_channels == 7:
            self._start_from_priors()

    def _start_from_priors(self) -> None:
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        odds = torch.logit(torch.tensor(TEXT_PRIOR))
        nn.init.normal_(last.weight, std=0.01)  # small: the priors below are what the maps start at
        nn.init.zeros_(last.bias)
        with torch.no_grad():
            last.bias[[1, 3]] = odds
            last.bias[6] = 0.5
            self.unit[6] = RADIUS_UNIT

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W) to ``{"maps": (N, num_channels, H, W)}``."""
        features = [_pad(image)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        merged = features[-1]
        for merge, finer in zip(self.merges, features[-2:0:-1], strict=True):
            merged = merge(torch.cat([finer, F.interpolate(merged, scale_factor=2.0, mode="nearest")], dim=1))
        maps = F.interpolate(self.head(merged), scale_factor=2.0, mode="bilinear", align_corners=False)
        return {"maps": _crop(maps * self.unit, image)}


def _torchvision() -> Any:
    require("networks.textsnake", "vision")
    import torchvision

    return torchvision


def _pad(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % COARSEST, 0, -height % COARSEST))


def _crop(maps: Tensor, image: Tensor) -> Tensor:
    return maps[..., : image.shape[-2], : image.shape[-1]]


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _vgg16_stages(weights: str | None) -> nn.ModuleList:
    """VGG16's convolutions in five parts, each ending with its pooling (strides 2 to 32)."""
    vgg = _torchvision().models.vgg
    layers = vgg.make_layers(vgg.cfgs["D"], batch_norm=False)
    if weights:
        entries = vgg.VGG16_Weights[weights].get_state_dict(progress=False, check_hash=True).items()
        layers.load_state_dict({key[len("features.") :]: value for key, value in entries if key[0] == "f"})
    else:
        _start_convolutions(layers)
    cuts = [0, 5, 10, 17, 24, 31]
    return nn.ModuleList(nn.Sequential(*layers[start:stop]) for start, stop in pairwise(cuts))


def _resnet18_stages(weights: str | None, width: int) -> nn.ModuleList:
    """ResNet-18 in five parts: stem (stride 2), pooling and first stage (4), three more stages (8 to 32)."""
    if width == 64:
        trunk = _torchvision().models.resnet18(weights=weights)
        stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu)
        return nn.ModuleList(
            [stem, nn.Sequential(trunk.maxpool, *trunk.layer1), trunk.layer2, trunk.layer3, trunk.layer4]
        )
    stem = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    first = nn.Sequential(nn.MaxPool2d(3, 2, 1), *_residual_stage(width, width))
    finer = [_residual_stage(width << level, width << level + 1) for level in range(3)]
    stages = nn.ModuleList([stem, first, *finer])
    _start_convolutions(stages)
    return stages


def _residual_stage(in_channels: int, out_channels: int) -> nn.Sequential:
    block = _torchvision().models.resnet.BasicBlock
    if in_channels == out_channels:
        return nn.Sequential(block(in_channels, out_channels), block(out_channels, out_channels))
    project = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, 2, bias=False), nn.BatchNorm2d(out_channels))
    return nn.Sequential(block(in_channels, out_channels, 2, project), block(out_channels, out_channels))


def _start_convolutions(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
