"""Outputs and targets for every preset, drawn: sparse objects, and images from `empty` on without any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import headwise as hw
from headwise import losses

SIZE = 6
NUM_SLOTS = 4


@dataclass(frozen=True)
class Draw:
    """Draws for `num` images; those from `empty` on hold no object."""

    num: int
    empty: int
    dtype: torch.dtype
    generator: torch.Generator

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        drawn = torch.randn((self.num, *shape), generator=self.generator, dtype=torch.float64) * scale
        return drawn.to(self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand((self.num, *shape), generator=self.generator, dtype=torch.float64).to(self.dtype)

    def below(self, high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, (self.num, *shape), generator=self.generator)

    def sparse(self, share: float, *shape: int) -> Tensor:
        """True at a share of the places, which differs between images."""
        shares = share * 2 * torch.rand((self.num, *(1 for _ in shape)), generator=self.generator)
        found = torch.rand((self.num, *shape), generator=self.generator) < shares
        found[self.empty :] = False
        return found


Sample = tuple[Any, Any]


def textsnake(draw: Draw) -> Sample:
    region = draw.sparse(0.3, SIZE, SIZE)
    line = region & (draw.uniform(SIZE, SIZE) < 0.6)
    angle = draw.uniform(SIZE, SIZE) * 6.28
    targets = {
        "text_region": region,
        "center_line": line,
        "sin": angle.sin() * line,
        "cos": angle.cos() * line,
        "radius": (1 + 5 * draw.uniform(SIZE, SIZE)) * line,
        "valid": draw.uniform(SIZE, SIZE) < 0.9,
    }
    return {"maps": draw.normal(7, SIZE, SIZE)}, targets


def corners(
    draw: Draw, num_stacks: int = 2, points: tuple[str, ...] = ("top_left", "bottom_right"), attention: bool = False
) -> Sample:
    num_classes = 3
    targets: dict[str, Any] = {"objects": draw.sparse(0.4, NUM_SLOTS)}
    for point in points:
        index = torch.where(targets["objects"], draw.below(SIZE * SIZE, NUM_SLOTS), 0)
        heat = 0.9 * draw.uniform(num_classes, SIZE, SIZE)
        for image, slot in targets["objects"].nonzero().tolist():
            heat[image, slot % num_classes].view(-1)[index[image, slot]] = 1.0
        targets |= {
            f"{point}_heatmap": heat,
            f"{point}_index": index,
            f"{point}_offset": draw.uniform(NUM_SLOTS, 2),
        }
        if attention:
            targets[f"{point}_valid"] = draw.uniform(num_classes, SIZE, SIZE) < 0.9
    if attention:
        targets["attention"] = [draw.sparse(0.2, 1, size, size).to(draw.dtype) for size in (2, 4)]
    channels = {"heatmap": num_classes, "embedding": 1, "offset": 2}
    stacks: list[dict[str, Any]] = []
    for _ in range(num_stacks):
        stack: dict[str, Any] = {
            f"{point}_{kind}": draw.normal(num, SIZE, SIZE)
            for point in points
            for kind, num in channels.items()
            if (point, kind) != ("center", "embedding")
        }
        stacks.append(stack | ({"attention": [draw.normal(1, size, size) for size in (2, 4)]} if attention else {}))
    return {"stacks": stacks}, targets


def pyramid(draw: Draw, num_logits: int = 3) -> Sample:
    outputs, targets = [], []
    for num_anchors in (20, 8):
        outputs.append({"logits": draw.normal(num_anchors, num_logits), "deltas": draw.normal(num_anchors, 4)})
        label = torch.where(draw.sparse(0.15, num_anchors), 1 + draw.below(2, num_anchors), 0)
        label = torch.where(draw.uniform(num_anchors) < 0.1, -1, label)
        targets.append({"label": label, "deltas": draw.normal(num_anchors, 4)})
    return {"levels": outputs}, {"levels": targets}


def pixels(draw: Draw) -> Sample:
    weight_map = draw.uniform(SIZE, SIZE) * 5 ** draw.normal(1, 1)  # some images weigh far more
    targets = {"label": draw.sparse(0.3, SIZE, SIZE).long(), "weight_map": weight_map}
    return {"logits": draw.normal(2, SIZE, SIZE)}, targets


def levels(draw: Draw) -> Sample:
    label = draw.sparse(0.3, SIZE, SIZE).long()
    return {"levels": [draw.normal(2, SIZE, SIZE), draw.normal(2, SIZE // 2, SIZE // 2)]}, {
        "label": label,
        "valid": draw.sparse(0.5, SIZE, SIZE),
    }


def language(draw: Draw) -> Sample:
    """Two routers; sequences of different lengths, those from `empty` on of nothing but padding."""
    valid = draw.sparse(0.45, SIZE)
    label = torch.where(valid & (draw.uniform(SIZE) < 0.8), draw.below(7, SIZE), -100)
    routers = [draw.normal(SIZE, 4), draw.normal(SIZE, 4)]
    return {"logits": draw.normal(SIZE, 7), "router_logits": routers}, {"label": label, "valid": valid}


def episodes(draw: Draw) -> Sample:
    outputs = {name: draw.normal(SIZE) for name in ("log_probability", "value", "entropy")}
    targets = {name: draw.normal(SIZE) for name in ("advantage", "return")}
    return outputs, {**targets, "valid": draw.sparse(0.45, SIZE)}


def molecules(draw: Draw) -> Sample:
    atoms = draw.sparse(0.45, NUM_SLOTS)
    targets = {"energy": draw.normal(1), "forces": draw.normal(NUM_SLOTS, 3), "atoms": atoms}
    return {"energy": draw.normal(1), "forces": draw.normal(NUM_SLOTS, 3)}, targets


def points(draw: Draw) -> Sample:
    sizes = {"residual": 9, "boundary": 2, "initial": 4}
    outputs, targets = ({name: draw.normal(num, 1) for name, num in sizes.items()} for _ in range(2))
    return outputs, targets


def quantized(draw: Draw) -> Sample:
    outputs: dict[str, Any] = {
        "image": draw.normal(3, SIZE, SIZE),
        "features": [draw.normal(2, SIZE, SIZE), draw.normal(3, 2, 2)],
        "codes": draw.normal(4, 2, 2),
        "encoding": draw.normal(4, 2, 2) * 3 ** draw.normal(1, 1, 1),  # some pictures are further from their codes
        "fake_logits": draw.normal(1, 3, 3),
    }
    real = [draw.normal(2, SIZE, SIZE), draw.normal(3, 2, 2)]
    return outputs, {"image": draw.normal(3, SIZE, SIZE), "features": real}


def judged(draw: Draw) -> Sample:
    """Some pictures are judged rightly all over, some nowhere."""
    outputs = {name: draw.normal(1, 3, 3) + 3 * draw.normal(1, 1, 1) for name in ("real_logits", "fake_logits")}
    return outputs, {"image": draw.normal(3, SIZE, SIZE)}


CENTERS = ("top_left", "bottom_right", "center")
PRESETS: dict[str, tuple[Callable[[], hw.Criterion], Callable[[Draw], Sample]]] = {
    "textsnake": (partial(hw.presets.textsnake, selection="image"), textsnake),
    "cornernet": (hw.presets.cornernet, corners),
    "cornernet_squeeze": (hw.presets.cornernet_squeeze, corners),
    "cornernet_saccade": (hw.presets.cornernet_saccade, partial(corners, num_stacks=3, attention=True)),
    "centernet": (hw.presets.centernet, partial(corners, points=CENTERS)),
    "retinanet": (hw.presets.retinanet, pyramid),
    "retinanet, shifted": (partial(hw.presets.retinanet, focal="shifted"), pyramid),
    "ssd": (partial(hw.presets.ssd, num_levels=2), pyramid),
    "weighted_unet, mean": (hw.presets.weighted_unet, pixels),
    "weighted_unet, weight_sum": (partial(hw.presets.weighted_unet, normalizer="weight_sum"), pixels),
    "weighted_unet, sum": (partial(hw.presets.weighted_unet, normalizer="sum"), pixels),
    "deep_supervision": (
        partial(hw.presets.deep_supervision, losses.cross_entropy, weights=[1.0, 0.5], strides=[1, 2], mask="valid"),
        levels,
    ),
    "mixture_of_experts": (
        partial(hw.presets.mixture_of_experts, top_k=2, per_sequence=True, mask="valid"),
        language,
    ),
    "actor_critic": (partial(hw.presets.actor_critic, mask="valid"), episodes),
    "energy_and_forces": (hw.presets.energy_and_forces, molecules),
    "energy_and_forces, per atom": (
        partial(hw.presets.energy_and_forces, per_atom=True, energy_weight=1.0),
        molecules,
    ),
    "physics_informed": (hw.presets.physics_informed, points),
    "vq_gan": (hw.presets.vq_gan, quantized),
    "vq_gan_discriminator": (hw.presets.vq_gan_discriminator, judged),
}


def sample(name: str, num: int, *, empty: int | None = None, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """Criterion, outputs and targets of a preset."""
    make, draw = PRESETS[name]
    drawn = draw(Draw(num, num if empty is None else empty, dtype, torch.Generator().manual_seed(seed)))
    return (make(), *drawn)
