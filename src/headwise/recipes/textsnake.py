"""TextSnake from pictures to a trained network: data, network, preset and optimiser put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from headwise.networks import textsnake as build_network
from headwise.presets import textsnake as build_criterion
from headwise.training import Batch, Outcome, Settings, Task, train
from headwise.training.run_folder import read_config

if TYPE_CHECKING:
    from headwise.data import PictureDataset, TextAnnotation

PRESET = "textsnake"


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
    steps=500,
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
    evaluate_every=250,
    min_area=10.0,
)
"""A few minutes on two CPU cores: a narrow ResNet-18 on the embedded pictures."""


def textsnake(
    data: str | Path | None = None,
    *,
    out: str | Path = "runs/textsnake",
    demo: bool = False,
    seed: int | None = None,
    steps: int | None = None,
    resume: bool = False,
    **changes: Any,
) -> Outcome:
    """Train TextSnake.

    Args:
        data: a Total-Text folder; None for the embedded pictures.
        out: folder of the run.
        demo: the small configuration `DEMO` instead of `PUBLISHED`.
        seed: of everything random; 0 by default.
        steps: optimiser steps; the configuration's by default.
        resume: continue the run in `out`, with the arguments it was started with.
        **changes: other fields of `Configuration`.

    Returns:
        How the run ended.

    Raises:
        ValueError: an argument does not exist, does not fit, or differs from the resumed run's; or bad data.
        OSError: data cannot be read or results cannot be written.
        ImportError: the extra ``headwise[train]`` is missing.
    """
    given = {"data": data and str(data), "seed": seed, "steps": steps, **changes}
    chosen = {name: value for name, value in given.items() if value is not None}
    if resume and (Path(out) / "config.json").is_file():
        configuration = _resumed(Path(out), chosen)
    else:
        start = asdict(DEMO if demo else PUBLISHED)
        configuration = Configuration.from_dict({**start, **chosen}, "textsnake")
    return train(make_task(configuration), make_settings(configuration), out, resume=resume)


def _resumed(folder: Path, chosen: Mapping[str, Any]) -> Configuration:
    stored = read_config(folder)["arguments"]
    configuration = Configuration.from_dict(stored, str(folder / "config.json"))
    for name, value in chosen.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{folder}: the run was started with {name} {stored.get(name)!r}, not {value!r}. "
                "Leave it out, or start a new run."
            )
    return configuration


def make_settings(configuration: Configuration) -> Settings:
    """Return the numbers of the run."""
    return Settings(
        steps=configuration.steps,
        seed=configuration.seed,
        log_every=configuration.log_every,
        checkpoint_every=configuration.checkpoint_every,
        evaluate_every=configuration.evaluate_every,
        precision=configuration.precision,
        clip_norm=configuration.clip_norm,
    )


def make_task(configuration: Configuration) -> Task:
    """Put the parts of the run together.

    Args:
        configuration: of the run; its seed also decides the first weights.

    Returns:
        The parts.
    """
    pictures, held_out = _pictures(configuration)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(configuration.seed)
        network = make_network(configuration, weights=configuration.weights)
    optimiser = torch.optim.AdamW(
        network.parameters(), configuration.learning_rate, weight_decay=configuration.weight_decay
    )
    return Task(
        recipe="textsnake",
        preset=PRESET,
        card=_card(),
        arguments=asdict(configuration),
        network=network,
        criterion=build_criterion(),
        optimiser=optimiser,
        scheduler=_scheduler(optimiser, configuration),
        batches=_Batches(pictures, configuration),
        evaluate=_Evaluation(held_out, configuration),
    )


def make_network(configuration: Configuration, *, weights: Literal["DEFAULT"] | None = None) -> nn.Module:
    """Build the network.

    Args:
        configuration: names backbone and width.
        weights: to start from.

    Returns:
        The network.

    Raises:
        OSError: ImageNet's weights could not be fetched.
    """
    try:
        return build_network(configuration.backbone, weights, width=configuration.width)
    except OSError as error:
        raise OSError(
            f"the ImageNet weights of {configuration.backbone} could not be fetched ({error}). "
            "Connect to the network once, or start from random weights with weights=None."
        ) from None


def _scheduler(optimiser: torch.optim.Optimizer, configuration: Configuration) -> LRScheduler:
    if configuration.schedule == "one_cycle":
        return OneCycleLR(optimiser, configuration.learning_rate, configuration.steps, pct_start=0.15)
    return StepLR(optimiser, max(configuration.steps // 2, 1), gamma=0.1)


def _card() -> str:
    import sys

    return sys.modules[build_criterion.__module__].__doc__ or ""


def _pictures(configuration: Configuration) -> tuple[PictureDataset, PictureDataset]:
    """Return the training and the held-out pictures."""
    from headwise.data import embedded_text, read_total_text

    if configuration.data is not None:
        return read_total_text(configuration.data, "Train"), read_total_text(configuration.data, "Test")
    size = configuration.picture_size
    return (
        embedded_text("train", num_pictures=configuration.num_pictures, size=size),
        embedded_text("held_out", num_pictures=configuration.num_held_out, size=size),
    )


class _Batches:
    """The batches of any range of steps."""

    def __init__(self, pictures: PictureDataset, configuration: Configuration) -> None:
        from headwise.data import TextAugmentation

        self.pictures = pictures
        self.configuration = configuration
        self.augmentation = TextAugmentation(
            configuration.size, scale=(configuration.scale, 1.0), degrees=configuration.degrees
        )

    def __call__(self, first_step: int, last_step: int) -> Iterable[Batch]:
        """Return the batches of these steps."""
        from headwise.data import BatchSampler, seeded_loader

        configuration = self.configuration
        sampler = BatchSampler(
            len(self.pictures),
            configuration.batch_size,
            seed=configuration.seed,
            first_step=first_step,
            last_step=last_step,
        )
        return seeded_loader(self.pictures, self.augmentation, collate, sampler, num_workers=configuration.num_workers)


def collate(samples: list[tuple[Tensor, TextAnnotation]]) -> Batch:
    """Stack augmented pictures and draw their targets.

    Args:
        samples: pictures (3, H, W), all of one size, with their annotations.

    Returns:
        The batch.
    """
    from headwise.coders.snakes import encode_snakes

    images = torch.stack([image for image, _ in samples])
    annotations = [annotation for _, annotation in samples]
    targets = encode_snakes(
        [annotation.polygons for annotation in annotations],
        [annotation.ignored for annotation in annotations],
        size=(images.shape[-2], images.shape[-1]),
    )
    return Batch(images, targets)


class _Evaluation:
    """Scores on the held-out pictures."""

    def __init__(self, pictures: PictureDataset, configuration: Configuration) -> None:
        self.pictures = pictures
        self.configuration = configuration

    def __call__(self, network: nn.Module, samples: Path | None) -> Mapping[str, Any]:
        """Return the measures; see `evaluate_pictures`."""
        from headwise.training.text_reading import evaluate_pictures

        return evaluate_pictures(
            network,
            self.pictures,
            size=self.configuration.inference_size,
            decode=self.configuration.decode,
            samples=samples,
        )
