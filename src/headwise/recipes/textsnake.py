"""TextSnake from pictures to a trained network: data, network, preset and optimiser put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from headwise.networks import textsnake as build_network
from headwise.presets import card
from headwise.presets import textsnake as build_criterion
from headwise.recipes.configuration import DEMO, PUBLISHED, Configuration
from headwise.training import Batch, Outcome, Settings, Task, train
from headwise.training.run_folder import read_config

if TYPE_CHECKING:
    from headwise.data import PictureDataset, TextAnnotation

PRESET = "textsnake"


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
    settings = make_settings(configuration)
    return train(make_task(configuration), settings, out, resume=resume)


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
        card=card(PRESET),
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
