"""The network that the corner detectors share: a trunk of hourglasses and, at each stack, poolings and heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from headwise.networks.corners.blocks import Fire, Residual, conv_norm_relu, head
from headwise.networks.corners.hourglass import Hourglass, Trunk
from headwise.networks.corners.pools import CascadeCornerPool, CenterPool, CornerPool

START = -2.19  # logit of heat maps and attention before anything is learned: a probability of 0.1
CHANNELS = {"embedding": 1, "offset": 2}  # of heads other than heat maps
CORNERS: tuple[Literal["top_left"], Literal["bottom_right"]] = ("top_left", "bottom_right")


@dataclass(frozen=True)
class Size:
    """The widths of a corner detector.

    Args:
        stem: channels after the first convolution.
        widths: channels of the hourglass at each size, finest first.
        counts: blocks at each size.
        pooled: channels of the branches that are pooled.
        hidden: channels between a head's two convolutions.
        stride: pixels of the image per position of the outputs, a power of two and at least 4.
    """

    stem: int = 128
    widths: tuple[int, ...] = (256, 256, 384, 384, 384, 512)
    counts: tuple[int, ...] = (2, 2, 2, 2, 2, 4)
    pooled: int = 128
    hidden: int = 256
    stride: int = 4


@dataclass(frozen=True)
class Traits:
    """What the systems differ in beside their sizes.

    Args:
        fire: fire modules, transposed convolutions and 1x1 heads (Squeeze) instead of residual blocks.
        attention: heads at the merged features of each hourglass (Saccade).
        center: center heads, and cascade corner pooling (CenterNet).
    """

    fire: bool = False
    attention: bool = False
    center: bool = False


class CornerDetector(nn.Module):
    """A corner detector; its builders are ``cornernet`` and its siblings.

    Args:
        num_classes: C.
        num_stacks: S.
        size: widths.
        traits: blocks and heads.
    """

    def __init__(self, num_classes: int, num_stacks: int, size: Size, traits: Traits) -> None:
        super().__init__()
        block = Fire if traits.fire else Residual
        hourglass = partial(Hourglass, size.widths, size.counts, block, transposed=traits.fire)
        self.trunk = Trunk(_stem(size), hourglass, size.widths[0], num_stacks)
        self.stacks = nn.ModuleList(StackHeads(num_classes, size, traits) for _ in range(num_stacks))
        self.num_classes = num_classes
        self.stride = size.stride
        self.multiple = 2 ** (len(size.widths) - 1)

    def forward(self, images: Tensor) -> dict[str, list[dict[str, Any]]]:
        """Map images to raw outputs of every stack, in training and in evaluation alike.

        Args:
            images: (N, 3, H, W). H and W, divided by ``stride`` and rounded up, must be multiples of
                ``multiple``: of CornerNet at full size 125 to 128, 253 to 256, ..., 509 to 512.

        Returns:
            ``{"stacks": [...]}``, in order, with h = H / stride and w = W / stride rounded up. Each stack is a
            dict of ``top_left_heatmap`` (N, C, h, w) logits, ``top_left_embedding`` (N, 1, h, w),
            ``top_left_offset`` (N, 2, h, w) and the same of ``bottom_right``; CenterNet's also of
            ``center_heatmap`` and ``center_offset``; Saccade's also of ``attention``, a list of logits
            (N, 1, ...), coarse to fine.

        Raises:
            ValueError: images of another shape.
        """
        self._check(images)
        pairs = zip(self.stacks, self.trunk(images), strict=True)
        return {"stacks": [heads(features, merged) for heads, (features, merged) in pairs]}

    def _check(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"CornerDetector: images must be (N, 3, H, W), found {tuple(images.shape)}. Stack them into a batch."
            )
        for name, length in zip(("height", "width"), images.shape[2:], strict=True):
            if length < 1 or -(-length // self.stride) % self.multiple:
                step = self.stride * self.multiple
                fits = max(step, -(-length // step) * step)
                raise ValueError(
                    f"CornerDetector: the {name}, divided by {self.stride} and rounded up, must be a multiple of "
                    f"{self.multiple}, found a {name} of {length}. Pad or resize to {fits - 1} or {fits}."
                )


class StackHeads(nn.Module):
    """The poolings and heads behind one hourglass."""

    def __init__(self, num_classes: int, size: Size, traits: Traits) -> None:
        super().__init__()
        width, kernel = size.widths[0], 1 if traits.fire else 3
        pool = CascadeCornerPool if traits.center else CornerPool
        self.pools = nn.ModuleDict({corner: pool(width, size.pooled, corner) for corner in CORNERS})
        kinds: dict[str, tuple[str, ...]] = dict.fromkeys(CORNERS, ("heatmap", "embedding", "offset"))
        if traits.center:
            self.pools["center"] = CenterPool(width, size.pooled)
            kinds["center"] = ("heatmap", "offset")
        self.heads = nn.ModuleDict()
        for point, kind in ((point, kind) for point, listed in kinds.items() for kind in listed):
            channels, start = (num_classes, START) if kind == "heatmap" else (CHANNELS[kind], None)
            self.heads[f"{point}_{kind}"] = head(width, size.hidden, channels, kernel, start)
        coarse_to_fine = size.widths[-2::-1] if traits.attention else ()
        self.attention = nn.ModuleList(head(merged, size.hidden, 1, kernel, START) for merged in coarse_to_fine)

    def forward(self, features: Tensor, merged: list[Tensor]) -> dict[str, Any]:
        """Map a stack's features (N, width, h, w), and its merged features, to outputs by name."""
        pooled = {point: pool(features) for point, pool in self.pools.items()}
        outputs: dict[str, Any] = {name: layer(_of(pooled, name)) for name, layer in self.heads.items()}
        if self.attention:
            outputs["attention"] = [layer(part) for layer, part in zip(self.attention, merged, strict=True)]
        return outputs


def _of(pooled: Mapping[str, Tensor], name: str) -> Tensor:
    return pooled[name.rpartition("_")[0]]


def _stem(size: Size) -> nn.Sequential:
    width, halvings = size.widths[0], size.stride.bit_length() - 1
    return nn.Sequential(
        conv_norm_relu(3, size.stem, 7, 2),
        Residual(size.stem, width, 2),
        *(Residual(width, width, 2) for _ in range(halvings - 2)),
    )
