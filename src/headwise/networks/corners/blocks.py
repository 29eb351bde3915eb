"""The blocks of the corner detectors: convolutions, residual blocks and fire modules."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm_relu(in_channels: int, out_channels: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Build a convolution without bias, BatchNorm and ReLU; ``stride`` divides the size, rounded up.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        size: side of the kernel, odd.
        stride: step of the kernel.

    Returns:
        The three, named ``conv``, ``norm`` and ``relu``.
    """
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False),
        norm=nn.BatchNorm2d(out_channels),
        relu=nn.ReLU(inplace=True),
    )
    return nn.Sequential(layers)


def conv_norm(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Sequential:
    """Build a convolution without bias and BatchNorm.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        size: side of the kernel, odd.
        stride: step of the kernel.

    Returns:
        The two, named ``conv`` and ``norm``.
    """
    return conv_norm_relu(in_channels, out_channels, size, stride)[:2]


def head(in_channels: int, hidden: int, out_channels: int, size: int, bias: float | None = None) -> nn.Sequential:
    """Build a head: a convolution with bias, ReLU, and a 1x1 convolution to raw outputs.

    Args:
        in_channels: channels of the features.
        hidden: channels in between.
        out_channels: channels of the output.
        size: side of the first kernel, odd.
        bias: where every output starts (a logit); None as the layer's own start.

    Returns:
        The three, named ``conv``, ``relu`` and ``out``.
    """
    out = nn.Conv2d(hidden, out_channels, 1)
    if bias is not None:
        assert out.bias is not None
        nn.init.constant_(out.bias, bias)
    conv = nn.Conv2d(in_channels, hidden, size, padding=size // 2)
    return nn.Sequential(OrderedDict[str, nn.Module](conv=conv, relu=nn.ReLU(inplace=True), out=out))


class Residual(nn.Module):
    """Two 3x3 convolutions with BatchNorm, plus the input (projected where the shape changes), ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_norm_relu(in_channels, out_channels, 3, stride)
        self.second = conv_norm(out_channels, out_channels, 3)
        same = stride == 1 and in_channels == out_channels
        self.project = nn.Identity() if same else conv_norm(in_channels, out_channels, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride), rounded up."""
        added: Tensor = self.second(self.first(features)) + self.project(features)
        return F.relu(added, inplace=True)


class Fire(nn.Module):
    """A squeeze to half the width, expanded side by side, plus the input if it fits, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_norm(in_channels, out_channels // 2, 1)
        self.second = Expand(out_channels, stride)
        self.same = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride), rounded up."""
        expanded: Tensor = self.second(self.first(features))
        return F.relu(expanded + features if self.same else expanded, inplace=True)


class Expand(nn.Module):
    """A 1x1 and a depthwise 3x3 convolution side by side, each of half the width, and BatchNorm."""

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.pointwise = nn.Conv2d(half, half, 1, stride, bias=False)
        self.depthwise = nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, squeezed: Tensor) -> Tensor:
        """Map (N, out / 2, H, W) to (N, out, H / stride, W / stride), rounded up."""
        both = torch.cat([self.pointwise(squeezed), self.depthwise(squeezed)], dim=1)
        normed: Tensor = self.norm(both)
        return normed
