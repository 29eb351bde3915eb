"""What a recipe consists of, and how one is started, resumed and loaded again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from headwise.criterion import Criterion
from headwise.presets import card
from headwise.recipes.configuration import Configuration
from headwise.training import Outcome, Settings, Task, train
from headwise.training.ranks import Ranks
from headwise.training.run_folder import FREE_ARGUMENTS, read_config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Size = Literal["tiny", "full"]
C = TypeVar("C", bound=Configuration)

MOMENTUM = 0.9


class Data(NamedTuple):
    """The data of a run, as `Task` takes them: batches by step, and measures on held-out pictures."""

    batches: Callable[..., Any]
    evaluate: Callable[[nn.Module, Path | None, Ranks], Mapping[str, Any]] | None


class Prediction(NamedTuple):
    """What was found on one picture.

    Args:
        record: goes to ``<picture>.json``.
        files: contents by ending: ``{".png": the overlay, ...}``.
    """

    record: dict[str, Any]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Recipe(Generic[C]):
    """A full run: data, network, preset and optimiser put together. Call it to train.

    Args:
        name: of the recipe, and of its preset.
        sizes: the configurations that it knows, "tiny" for a few minutes on two CPU cores, "full" the authors'.
        make_network: configuration -> network with random weights, or pre-trained ones if it says so and
            `pretrained` is true.
        make_criterion: configuration -> the preset.
        make_data: configuration -> batches and evaluation.
        predict: (network, configuration, path, picture (H, W, 3) uint8) -> what was found.
        complete: fills in what only the data tell, the names of the classes for instance, when a run starts.
    """

    name: str
    sizes: Mapping[str, C]
    make_network: Callable[[C, bool], nn.Module]
    make_criterion: Callable[[C], Criterion]
    make_data: Callable[[C], Data]
    predict: Callable[[nn.Module, C, Path, NDArray[np.uint8]], Prediction]
    complete: Callable[[C], C] = lambda configuration: configuration

    def __call__(
        self,
        data: str | Path | None = None,
        *,
        out: str | Path | None = None,
        size: Size | None = None,
        seed: int | None = None,
        steps: int | None = None,
        resume: bool = False,
        **changes: Any,
    ) -> Outcome:
        """Train.

        Args:
            data: a folder of the recipe's format; None for the embedded pictures.
            out: folder of the run; by default ``runs/<recipe>``.
            size: "tiny" or "full"; by default full with `data` and tiny without.
            seed: of everything random; 0 by default.
            steps: optimiser steps; the configuration's by default.
            resume: continue the run in `out`, with the arguments it was started with; only how steps are carried out
                (`micro_batches`, `strategy`, `num_workers`, the number of processes) may change.
            **changes: other fields of the recipe's configuration.

        Returns:
            How the run ended.

        Raises:
            ValueError: an argument does not exist, does not fit, or differs from the resumed run's; or bad data.
            OSError: data cannot be read or results cannot be written.
            ImportError: the extra ``headwise[train]`` is missing.
        """
        folder = Path(out) if out is not None else Path("runs") / self.name
        given = {"data": data and str(data), "seed": seed, "steps": steps, **changes}
        chosen = {name: value for name, value in given.items() if value is not None}
        if resume and (folder / "config.json").is_file():
            configuration = self._resumed(folder, chosen)
        else:
            configuration = self.complete(self.configure(size or ("full" if data else "tiny"), chosen))
        settings = make_settings(configuration)
        return train(self.make_task(configuration), settings, folder, resume=resume)

    def configure(self, size: str, changes: Mapping[str, Any]) -> C:
        """Return a configuration with some fields changed.

        Args:
            size: which one to start from.
            changes: fields by name.

        Returns:
            The configuration.

        Raises:
            ValueError: no such size or field.
        """
        if size not in self.sizes:
            raise ValueError(f"{self.name}: size is one of {', '.join(self.sizes)}, found {size!r}.")
        start = self.sizes[size]
        return type(start).from_dict({**asdict(start), **changes}, self.name)

    def read_configuration(self, arguments: Mapping[str, Any], where: str) -> C:
        """Read the configuration of a run back.

        Args:
            arguments: of its checkpoint or ``config.json``.
            where: that file, for the error.

        Returns:
            The configuration.

        Raises:
            ValueError: a key that does not exist.
        """
        return type(next(iter(self.sizes.values()))).from_dict(arguments, where)

    def _resumed(self, folder: Path, chosen: Mapping[str, Any]) -> C:
        stored = self.read_configuration(read_config(folder)["arguments"], str(folder / "config.json"))
        free = {name: value for name, value in chosen.items() if name in FREE_ARGUMENTS}
        for name, value in chosen.items():
            if name not in free and getattr(stored, name, None) != value:
                raise ValueError(
                    f"{folder}: the run was started with {name} {getattr(stored, name, None)!r}, not {value!r}. "
                    "Leave it out, or start a new run."
                )
        return replace(stored, **free)

    def make_task(self, configuration: C) -> Task:
        """Put the parts of the run together.

        Args:
            configuration: of the run; its seed also decides the first weights.

        Returns:
            The parts.
        """
        data = self.make_data(configuration)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(configuration.seed)
            network = self.make_network(configuration, True)
        optimiser = make_optimiser(network, configuration)
        return Task(
            recipe=self.name,
            preset=self.name,
            card=card(self.name),
            arguments=asdict(configuration),
            network=network,
            criterion=self.make_criterion(configuration),
            optimiser=optimiser,
            scheduler=make_scheduler(optimiser, configuration),
            batches=data.batches,
            evaluate=data.evaluate,
        )


def make_settings(configuration: Configuration) -> Settings:
    """Return the numbers of the run."""
    return Settings(
        steps=configuration.steps,
        seed=configuration.seed,
        log_every=configuration.log_every,
        checkpoint_every=configuration.checkpoint_every,
        evaluate_every=configuration.evaluate_every,
        micro_batches=configuration.micro_batches,
        precision=configuration.precision,
        strategy=configuration.strategy,
        on_nonfinite=configuration.on_nonfinite,
        clip_norm=configuration.clip_norm,
    )


def make_optimiser(network: nn.Module, configuration: Configuration) -> Optimizer:
    """Return the optimiser of all parameters.

    Args:
        network: to train.
        configuration: of the run.

    Returns:
        AdamW, or SGD with momentum.

    Raises:
        ValueError: an unknown optimiser.
    """
    parameters, rate, decay = network.parameters(), configuration.learning_rate, configuration.weight_decay
    if configuration.optimiser == "adamw":
        return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
    if configuration.optimiser == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=MOMENTUM, weight_decay=decay, fused=True)
    raise ValueError(f"optimiser is adamw or sgd, found {configuration.optimiser!r}.")


def make_scheduler(optimiser: Optimizer, configuration: Configuration) -> LRScheduler:
    """Return the schedule of the learning rate.

    Args:
        optimiser: whose rate moves.
        configuration: of the run.

    Returns:
        The schedule, stepped once per optimiser step.

    Raises:
        ValueError: an unknown schedule, or a drop outside (0, 1].
    """
    if configuration.schedule == "one_cycle":
        return OneCycleLR(optimiser, configuration.learning_rate, configuration.steps, pct_start=0.15)
    if configuration.schedule != "step" or not 0 < configuration.drop <= 1:
        found = f"{configuration.schedule!r} with drop {configuration.drop}"
        raise ValueError(f"schedule is one_cycle, or step with a drop in (0, 1]; found {found}.")
    return StepLR(optimiser, max(round(configuration.steps * configuration.drop), 1), gamma=0.1)
