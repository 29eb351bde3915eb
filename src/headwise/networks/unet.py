"""The U-Net of the paper, with unpadded or padded convolutions, and with auxiliary outputs for deep supervision."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headwise.whole import check_whole

Padding = Literal["same", "valid"]


def unet(
    num_classes: int = 2,
    *,
    in_channels: int = 3,
    width: int = 64,
    depth: int = 4,
    padding: Padding = "same",
    batch_norm: bool = False,
    auxiliary: int = 0,
) -> UNet:
    """Build the U-Net.

    ``network(images)`` takes images (N, in_channels, H, W) and returns raw logits:
    ``{"logits": (N, num_classes, H', W')}`` or, with auxiliary outputs, ``{"levels": [...]}``, finest first, level l
    at ``ceil(H / 2^l), ceil(W / 2^l)``.

    Args:
        num_classes: Classes, the background included.
        in_channels: Of the images.
        width: Channels at the finest level, doubled at each coarser one.
        depth: How often the image is halved.
        padding: ``"same"``: H' = H; any H and W, which are padded with 0 on the right and at the bottom to multiples
            of ``2^depth`` inside. ``"valid"``: no convolution is padded, so that every output has seen real pixels
            only: H' = H - 2 `UNet.margin`, and H is one of the sizes that halve without a rest (`UNet.fitting`).
        batch_norm: BatchNorm after each 3x3 convolution, which then has no bias.
        auxiliary: How many outputs at the coarser levels of the way up, at most `depth`; needs ``"same"``.

    Returns:
        The network, in training mode; 31,030,658 parameters for the paper's one channel and two classes. Weights
        start as the paper says: normal with variance 2 / fan-in.

    Raises:
        ValueError: a number out of its range, an unknown padding, or auxiliary outputs without padding.

    Reference:
        Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015, figure 1;
        the auxiliary outputs: Lee et al., Deeply-supervised nets, AISTATS 2015.

    Differs:
        No dropout at the end of the way down.
    """
    _check(num_classes, in_channels, width, depth, padding, auxiliary)
    return UNet(num_classes, in_channels, width, depth, padding, batch_norm, auxiliary)


def _check(num_classes: int, in_channels: int, width: int, depth: int, padding: str, auxiliary: int) -> None:
    check_whole("networks.unet", num_classes=num_classes, in_channels=in_channels, width=width, depth=depth)
    check_whole("networks.unet", 0, auxiliary=auxiliary)
    if padding not in ("same", "valid"):
        raise ValueError(f"networks.unet: padding is 'same' or 'valid', found {padding!r}.")
    if auxiliary > depth or (auxiliary and padding == "valid"):
        raise ValueError(
            "networks.unet: auxiliary is 0 to depth, and 0 without padding, where the levels would see different "
            f"parts of the image; found auxiliary={auxiliary}, depth={depth}, padding={padding!r}."
        )


class UNet(nn.Module):
    """What `unet` builds: a way down, a way up that reads it, and a head at each level that has an output."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        width: int,
        depth: int,
        padding: Padding,
        batch_norm: bool,
        auxiliary: int,
    ) -> None:
        super().__init__()
        self.depth, self.padding, self.auxiliary = depth, padding, auxiliary
        widths = [width << level for level in range(depth + 1)]
        pad = int(padding == "same")
        self.down = nn.ModuleList(_pair(i, o, pad, batch_norm) for i, o in pairwise([in_channels, *widths]))
        self.widen = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[:-1])
        self.up = nn.ModuleList(_pair(2 * w, w, pad, batch_norm) for w in widths[:-1])
        self.heads = nn.ModuleList(nn.Conv2d(w, num_classes, 1) for w in widths[: auxiliary + 1])
        self.apply(_start)

    @property
    def margin(self) -> int:
        """Pixels that the output lacks on each side; 92 for the paper's depth without padding."""
        return (self._input_size(0) - self._output_size(0)) // 2 if self.padding == "valid" else 0

    def fitting(self, size: int) -> int:
        """Return the least height or width that the network takes and whose output covers `size` pixels.

        Args:
            size: of the output that is wanted, pixels.

        Returns:
            The size of the input, pixels.
        """
        if self.padding == "same":
            return size
        stride = 2**self.depth
        return self._input_size(max(-(-(size - self._output_size(0)) // stride), 1))

    def forward(self, images: Tensor) -> dict[str, Tensor] | dict[str, list[Tensor]]:
        """Map images (N, in_channels, H, W) to logits; see `unet`."""
        features = self._way_down(self._fit(images))
        merged = features[-1]
        seen = {self.depth: merged}
        for level in reversed(range(self.depth)):
            wider = self.widen[level](merged)
            merged = self.up[level](torch.cat([_center(features[level], wider), wider], dim=1))
            seen[level] = merged
        outputs = [self._cut(head(seen[level]), images, level) for level, head in enumerate(self.heads)]
        return {"levels": outputs} if self.auxiliary else {"logits": outputs[0]}

    def _way_down(self, images: Tensor) -> list[Tensor]:
        features = [self.down[0](images)]
        for pair in self.down[1:]:
            features.append(pair(F.max_pool2d(features[-1], 2)))
        return features

    def _fit(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if self.padding == "same":
            stride = 2**self.depth
            return F.pad(images, (0, -width % stride, 0, -height % stride))
        for size in (height, width):
            fits = self.fitting(max(size - 2 * self.margin, 1))
            if fits != size:
                raise ValueError(
                    f"networks.unet: without padding, images of {height} x {width} do not halve {self.depth} times "
                    f"without a rest; {fits} pixels would. Mirror the border up to that (UNet.fitting)."
                )
        return images

    def _cut(self, logits: Tensor, images: Tensor, level: int) -> Tensor:
        """Cut what was padded."""
        if self.padding == "valid":
            return logits
        height, width = (-(-size // 2**level) for size in images.shape[-2:])
        return logits[..., :height, :width]

    def _input_size(self, deepest: int) -> int:
        """Return the input whose deepest features, after their convolutions, have this size."""
        size = deepest + 4
        for _ in range(self.depth):
            size = 2 * size + 4
        return size

    def _output_size(self, deepest: int) -> int:
        size = deepest
        for _ in range(self.depth):
            size = 2 * size - 4
        return size


def _pair(in_channels: int, out_channels: int, pad: int, batch_norm: bool) -> nn.Sequential:
    """Two 3x3 convolutions, each with its ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=pad, bias=not batch_norm))
        layers.extend([nn.BatchNorm2d(out_channels)] if batch_norm else [])
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _center(finer: Tensor, wider: Tensor) -> Tensor:
    """Cut the middle of the finer features to the size of the wider ones."""
    top, left = ((f - w) // 2 for f, w in zip(finer.shape[-2:], wider.shape[-2:], strict=True))
    return finer[..., top : top + wider.shape[-2], left : left + wider.shape[-1]]


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        # Every output pixel of these transposed convolutions is reached by one pixel only.
        pixels = 1 if isinstance(module, nn.ConvTranspose2d) else module.weight[0, 0].numel()
        nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_channels * pixels)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
