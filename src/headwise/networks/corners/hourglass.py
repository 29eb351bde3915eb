"""The hourglass, and the stack of hourglasses behind one stem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from headwise.networks.corners.blocks import Residual, conv_norm, conv_norm_relu

Block = Callable[..., nn.Module]


class Hourglass(nn.Module):
    """Features at full size, plus what a smaller hourglass at half the size made of them.

    Args:
        widths: channels at each size, finest first; the order is their number less one.
        counts: blocks at each size.
        block: ``block(in_channels, out_channels, stride)``.
        transposed: upsample by a transposed convolution instead of by repetition.
    """

    def __init__(self, widths: Sequence[int], counts: Sequence[int], block: Block, *, transposed: bool = False) -> None:
        super().__init__()
        (width, deeper), count = widths[:2], counts[0]
        self.up = _chain(block, [width] * (count + 1))
        self.down = _chain(block, [width] + [deeper] * count, stride=2)
        self.inner = (
            Hourglass(widths[1:], counts[1:], block, transposed=transposed)
            if len(widths) > 2
            else _chain(block, [deeper] * (counts[1] + 1))
        )
        self.back = _chain(block, [deeper] * count + [width])
        self.upsample = nn.ConvTranspose2d(width, width, 4, 2, 1) if transposed else nn.Upsample(scale_factor=2)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map (N, C, H, W), H and W multiples of 2 ** order, to merged features at each size, coarse to fine.

        Args:
            features: (N, widths[0], H, W).

        Returns:
            As many tensors as the order: (N, widths[-2], ...) to (N, widths[0], H, W).
        """
        lower = self.down(features)
        merged: list[Tensor] = self.inner(lower) if isinstance(self.inner, Hourglass) else []
        lower = merged[-1] if merged else self.inner(lower)
        return [*merged, self.up(features) + self.upsample(self.back(lower))]


class Trunk(nn.Module):
    """A stem and S hourglasses, each reading the stem's features and what the one before made of them.

    Args:
        stem: images to features of ``widths[0]`` channels.
        make_hourglass: builds one hourglass.
        width: channels of the features.
        num_stacks: S.
    """

    def __init__(self, stem: nn.Module, make_hourglass: Callable[[], Hourglass], width: int, num_stacks: int) -> None:
        super().__init__()
        self.stem = stem
        self.hourglasses = nn.ModuleList(make_hourglass() for _ in range(num_stacks))
        self.smooth = nn.ModuleList(conv_norm_relu(width, width) for _ in range(num_stacks))
        self.from_input = nn.ModuleList(conv_norm(width, width, 1) for _ in range(num_stacks - 1))
        self.from_features = nn.ModuleList(conv_norm(width, width, 1) for _ in range(num_stacks - 1))
        self.between = nn.ModuleList(Residual(width, width) for _ in range(num_stacks - 1))

    def forward(self, images: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """Map images (N, 3, H, W) to each stack's features and the merged features of its hourglass.

        Args:
            images: (N, 3, H, W).

        Returns:
            For each stack (N, width, h, w), and a list as ``Hourglass`` returns it.
        """
        entering = self.stem(images)
        stacks = []
        for place, (hourglass, smooth) in enumerate(zip(self.hourglasses, self.smooth, strict=True)):
            merged = hourglass(entering)
            features = smooth(merged[-1])
            stacks.append((features, merged))
            if place < len(self.between):
                mixed = self.from_input[place](entering) + self.from_features[place](features)
                entering = self.between[place](F.relu(mixed, inplace=True))
        return stacks


def _chain(block: Block, widths: Sequence[int], stride: int = 1) -> nn.Sequential:
    strides = [stride] + [1] * (len(widths) - 2)
    return nn.Sequential(*(block(*pair, step) for pair, step in zip(pairwise(widths), strides, strict=True)))
