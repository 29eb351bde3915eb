"""What a run of TextSnake depends on, and the two configurations that the command knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True)
class Configuration:
    """Everything that a run of TextSnake depends on.

    Args:
        data: a Total-Text folder; None for the embedded pictures.
        seed: of weights, order and augmentation.
        steps: optimiser steps.
        backbone: of the network.
        weights: "DEFAULT" for ImageNet's; None for random ones.
        width: channels of ResNet-18's first stage.
        size: height and width of the training crops, pixels.
        scale: smallest share of a picture's area that a crop shows.
        degrees: largest random rotation.
        inference_size: longer side of a picture when words are read from it, pixels.
        batch_size: images a step.
        learning_rate: of Adam; the highest, where it moves in one cycle.
        schedule: "one_cycle", or "step": a tenth after half of the steps.
        weight_decay: decoupled.
        clip_norm: largest norm of the gradient.
        precision: "32-true" or "bf16-mixed".
        num_pictures: of the embedded training pictures.
        num_held_out: of the embedded held-out pictures.
        picture_size: of the embedded pictures.
        num_workers: processes that load; the batches do not depend on it.
        log_every: steps.
        checkpoint_every: steps.
        evaluate_every: steps.
        region_threshold: of the decoder.
        center_line_threshold: of the decoder.
        within_region: of the decoder.
        min_area: of the decoder.
    """

    data: str | None = None
    seed: int = 0
    steps: int = 62_800
    backbone: Literal["vgg16", "resnet18"] = "vgg16"
    weights: Literal["DEFAULT"] | None = "DEFAULT"
    width: int = 64
    size: int = 512
    scale: float = 0.25
    degrees: float = 10.0
    inference_size: int = 768
    batch_size: int = 4
    learning_rate: float = 1e-4
    schedule: Literal["one_cycle", "step"] = "step"
    weight_decay: float = 0.0
    clip_norm: float | None = None
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    num_pictures: int = 1200
    num_held_out: int = 100
    picture_size: int = 512
    num_workers: int = 4
    log_every: int = 50
    checkpoint_every: int = 1000
    evaluate_every: int = 5000
    region_threshold: float = 0.6
    center_line_threshold: float = 0.4
    within_region: bool = False
    min_area: float = 0.0

    @classmethod
    def from_dict(cls, arguments: Mapping[str, Any], where: str) -> Configuration:
        """Read a configuration back.

        Args:
            arguments: what `dataclasses.asdict` gave.
            where: the file it is from, for the error.

        Returns:
            The configuration.

        Raises:
            ValueError: a key that does not exist.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(arguments.keys() - known)
        if unknown:
            raise ValueError(
                f"{where}: no argument {unknown[0]!r} of textsnake. There are: {', '.join(sorted(known))}."
            )
        return cls(**arguments)

    @property
    def decode(self) -> dict[str, Any]:
        """Options of the decoder."""
        return {
            "region_threshold": self.region_threshold,
            "center_line_threshold": self.center_line_threshold,
            "within_region": self.within_region,
            "min_area": self.min_area,
        }


PUBLISHED = Configuration()
"""The authors' training: VGG16, crops of 512, Adam at 1e-4, 200 epochs of Total-Text's 1,255 pictures."""

DEMO = Configuration(
    steps=400,
    backbone="resnet18",
    weights=None,
    width=32,
    size=192,
    scale=0.4,
    inference_size=256,
    batch_size=8,
    learning_rate=3e-3,
    schedule="one_cycle",
    weight_decay=1e-4,
    clip_norm=5.0,
    num_pictures=600,
    num_held_out=40,
    picture_size=256,
    num_workers=1,
    log_every=10,
    checkpoint_every=100,
    evaluate_every=200,
    min_area=10.0,
)
"""A few minutes on two CPU cores: a narrow ResNet-18 on the embedded pictures."""
