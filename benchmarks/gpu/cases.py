"""Each loss alone: the term, drawn inputs, and what others write for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import headwise as hw
from benchmarks.authors.corners import embedding_loss, focal_loss, gather, offset_loss
from benchmarks.authors.retinanet import authors_classes, torchvision_boxes, torchvision_classes
from benchmarks.authors.textsnake import mined_cross_entropy
from benchmarks.gpu.bench import Bench
from headwise import losses

Peer = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """A term on drawn outputs and targets; `peer(*outputs, *targets)` has its gradient, up to a factor."""

    term: hw.Term | hw.RatioTerm
    outputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    peer: Peer

    @property
    def name(self) -> str:
        """The loss."""
        return self.term.name


class Draw:
    """Random tensors on the device."""

    def __init__(self, bench: Bench) -> None:
        self.device = bench.device
        self.images, self.side = bench.pick((16, 256), (2, 32), (1, 16))
        self.generator = torch.Generator(self.device).manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.images, *shape, device=self.device, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.images, *shape, device=self.device, generator=self.generator)

    def labels(self, num: int, *shape: int, share: float = 0.2) -> Tensor:
        """0..num - 1, a share of them positive."""
        drawn = torch.randint(1, num, (self.images, *shape), device=self.device, generator=self.generator)
        return torch.where(self.uniform(*shape) < share, drawn, 0)


def case(name: str, peer: Peer, outputs: Any, targets: Any, mask: Any = None, *, loss: Any = None) -> Case:
    """Names the tensors o0, o1, ... and t0, t1, ..., and the mask m."""
    found = {f"o{i}": each.requires_grad_() for i, each in enumerate(outputs)}
    wanted = {f"t{i}": each for i, each in enumerate(targets)}
    paths: dict[str, Any] = {"output": tuple(found), "target": tuple(wanted)}
    paths = {key: names[0] if len(names) == 1 else names for key, names in paths.items()}
    masked = {} if mask is None else {"m": mask}
    kind = hw.RatioTerm if name == "dice" else hw.Term
    term = kind(name, loss or getattr(losses, name), **paths, mask="m" if masked else None)
    return Case(term, found, wanted | masked, peer)


def cross_entropy(draw: Draw) -> Case:
    def peer(logits: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        return F.cross_entropy(logits.movedim(1, -1)[mask], label[mask])

    size = (draw.side, draw.side)
    return case("cross_entropy", peer, [draw.normal(21, *size)], [draw.labels(21, *size)], draw.uniform(*size) < 0.9)


def hard_negative_cross_entropy(draw: Draw) -> Case:
    def peer(logits: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        return mined_cross_entropy(logits.movedim(1, -1).reshape(-1, 2), text.flatten(), mask.flatten())

    size = (4 * draw.side, 4 * draw.side)
    targets = [draw.uniform(*size) < 0.1]
    return case("hard_negative_cross_entropy", peer, [draw.normal(2, *size)], targets, draw.uniform(*size) < 0.95)


def weighted_cross_entropy(draw: Draw) -> Case:
    def peer(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        return (F.cross_entropy(logits, label, reduction="none") * weight).mean()

    size = (2 * draw.side, 2 * draw.side)
    targets = [draw.labels(2, *size, share=0.5), 1 + draw.uniform(*size)]
    return case("weighted_cross_entropy", peer, [draw.normal(2, *size)], targets)


def binary_cross_entropy(draw: Draw) -> Case:
    size = (64, draw.side, draw.side)
    return case("binary_cross_entropy", F.binary_cross_entropy_with_logits, [draw.normal(*size)], [draw.uniform(*size)])


def squared_error(draw: Draw) -> Case:
    size = (64, draw.side, draw.side)
    return case("squared_error", F.mse_loss, [draw.normal(*size)], [draw.normal(*size)])


def absolute_error(draw: Draw) -> Case:
    size = (64, draw.side, draw.side)
    return case("absolute_error", F.l1_loss, [draw.normal(*size)], [draw.normal(*size)])


def smooth_l1(draw: Draw) -> Case:
    size = (64, draw.side, draw.side)
    return case("smooth_l1", F.smooth_l1_loss, [draw.normal(*size)], [draw.normal(*size)])


def relative_smooth_l1(draw: Draw) -> Case:
    def peer(radius: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        chosen = target[mask]
        return F.smooth_l1_loss(radius[mask] / chosen, torch.ones_like(chosen))

    size = (4 * draw.side, 4 * draw.side)
    targets = [1 + 9 * draw.uniform(*size)]
    return case("relative_smooth_l1", peer, [draw.normal(*size)], targets, draw.uniform(*size) < 0.05)


def direction_smooth_l1(draw: Draw) -> Case:
    def peer(direction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        sin, cos = direction.unbind(1)
        return F.smooth_l1_loss((sin * torch.sqrt(1.0 / (sin**2 + cos**2)))[mask], target[mask])

    def loss(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return losses.direction_smooth_l1(output, target, mask, component=0)

    size = (4 * draw.side, 4 * draw.side)
    outputs, targets = [draw.normal(2, *size)], [(6.28 * draw.uniform(*size)).sin()]
    return case("direction_smooth_l1", peer, outputs, targets, draw.uniform(*size) < 0.05, loss=loss)


def gaussian_focal(draw: Draw) -> Case:
    def peer(logits: Tensor, target: Tensor) -> Tensor:
        return focal_loss([torch.clamp(torch.sigmoid(logits), 1e-4, 1 - 1e-4)], target)

    size = (80, draw.side, draw.side)
    heat = draw.uniform(*size)
    targets = [torch.where(heat > 0.9995, 1.0, torch.where(heat > 0.99, 0.5, 0.0))]
    return case("gaussian_focal", peer, [draw.normal(*size) - 2.19], targets)


def dice(draw: Draw) -> Case:
    def peer(logits: Tensor, target: Tensor) -> Tensor:
        found = torch.sigmoid(logits)
        return 1 - (2 * (found * target).sum() + 1) / (found.sum() + target.sum() + 1)

    size = (16, draw.side, draw.side)
    return case("dice", peer, [draw.normal(*size)], [(draw.uniform(*size) < 0.2).float()])


def sigmoid_focal(draw: Draw) -> Case:
    size = (draw.side * draw.side,)
    return case("sigmoid_focal", torchvision_classes, [draw.normal(*size, 80) - 4], [_anchors(draw)])


def shifted_focal(draw: Draw) -> Case:
    size = (draw.side * draw.side,)
    return case("shifted_focal", authors_classes, [draw.normal(*size, 80) - 4], [_anchors(draw)])


def box_smooth_l1(draw: Draw) -> Case:
    def peer(deltas: Tensor, target: Tensor, label: Tensor) -> Tensor:
        return torchvision_boxes(deltas, label, target)

    size = (draw.side * draw.side, 4)
    return case("box_smooth_l1", peer, [draw.normal(*size)], [draw.normal(*size)], _anchors(draw))


def multibox_cross_entropy(draw: Draw) -> Case:
    def peer(logits: Tensor, label: Tensor) -> Tensor:
        """As in torchvision's `SSD.compute_loss`."""
        each = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none").view(label.shape)
        positive = label > 0
        negative = each.clone()
        negative[positive] = -float("inf")
        order = negative.sort(1, descending=True)[1]
        background = order.sort(1)[1] < 3 * positive.sum(1, keepdim=True)
        return each[positive].sum() + each[background].sum()

    size = (draw.side * draw.side // 4,)
    return case("multibox_cross_entropy", peer, [draw.normal(*size, 21)], [draw.labels(21, *size, share=0.05)])


def pull(draw: Draw) -> Case:
    return _embeddings(draw, "pull", 0)


def push(draw: Draw) -> Case:
    return _embeddings(draw, "push", 1)


def gathered_smooth_l1(draw: Draw) -> Case:
    def peer(maps: Tensor, index: Tensor, target: Tensor, objects: Tensor) -> Tensor:
        return offset_loss(gather(maps, index), target, objects)

    outputs, targets = [draw.normal(2, draw.side, draw.side)], [_index(draw), draw.uniform(128, 2)]
    return case("gathered_smooth_l1", peer, outputs, targets, draw.uniform(128) < 0.3)


def _embeddings(draw: Draw, name: str, number: int) -> Case:
    def peer(left: Tensor, right: Tensor, left_index: Tensor, right_index: Tensor, objects: Tensor) -> Tensor:
        found = (gather(left, left_index).squeeze(2), gather(right, right_index).squeeze(2))
        return embedding_loss(*found, objects)[number]

    outputs = [draw.normal(1, draw.side, draw.side) for _ in range(2)]
    return case(name, peer, outputs, [_index(draw), _index(draw)], draw.uniform(128) < 0.3)


def _index(draw: Draw) -> Tensor:
    return (draw.uniform(128) * draw.side * draw.side).long()


def _anchors(draw: Draw) -> Tensor:
    """Labels of anchors: one in a hundred an object, one in twenty ignored."""
    size = (draw.side * draw.side,)
    return torch.where(draw.uniform(*size) < 0.05, -1, draw.labels(81, *size, share=0.01))


# The heaviest first: what the seconds of the part do not reach is light.
CASES: tuple[Callable[[Draw], Case], ...] = (
    gaussian_focal,
    sigmoid_focal,
    hard_negative_cross_entropy,
    cross_entropy,
    shifted_focal,
    smooth_l1,
    multibox_cross_entropy,
    direction_smooth_l1,
    weighted_cross_entropy,
    relative_smooth_l1,
    binary_cross_entropy,
    dice,
    box_smooth_l1,
    squared_error,
    absolute_error,
    push,
    pull,
    gathered_smooth_l1,
)
