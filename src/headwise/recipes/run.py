"""What a recipe consists of, and how one is started, resumed and loaded again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import nn

from headwise.criterion import Criterion
from headwise.presets import card
from headwise.recipes.batches import Batches
from headwise.recipes.configuration import Configuration
from headwise.recipes.fields import NOTHING
from headwise.recipes.optimization import make_optimizer, make_scheduler, make_settings
from headwise.recipes.start import PRETRAINED, fetching, freeze, start_from
from headwise.training import Outcome, Task, train
from headwise.training.folder.checkpoints import list_checkpoints
from headwise.training.folder.run_folder import FREE_ARGUMENTS, check_folder, read_config
from headwise.training.ranks import Ranks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Size = Literal["tiny", "full"]
C = TypeVar("C", bound=Configuration)


class Data(NamedTuple):
    """The data of a run, as `Task` takes them.

    Args:
        batches: by step, and what is on their pictures.
        evaluate: measures on held-out pictures.
        num_images: to train on, and held out.
    """

    batches: Batches
    evaluate: Callable[[nn.Module, Path | None, Ranks], Mapping[str, Any]]
    num_images: tuple[int, int]


class Prediction(NamedTuple):
    """What was found on one picture.

    Args:
        record: goes to ``<picture>.json``.
        files: contents by ending, those of `ENDINGS` that the recipe has.
        boxes: ``boxes``, ``scores`` and ``labels`` for COCO's list of results; None where there are no boxes.
    """

    record: dict[str, Any]
    files: dict[str, bytes]
    boxes: Mapping[str, Any] | None = None


class PictureFile(NamedTuple):
    """A picture to be read.

    Args:
        path: its file.
        image: (H, W, 3) uint8.
    """

    path: Path
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Recipe(Generic[C]):
    """A full run: data, network, preset and optimizer put together. Call it to train.

    Args:
        name: of the recipe, and of its preset.
        sizes: the configurations that it knows, "tiny" for a few minutes on two CPU cores, "full" the authors'.
        make_network: configuration -> network with random weights, or pre-trained ones if it says so and
            `pretrained` is true.
        make_criterion: configuration -> the preset.
        make_data: configuration -> batches and evaluation.
        predict: (network, configuration, pictures, least score or None) -> what was found on each.
        endings: of the files that a prediction has beside its JSON.
        complete: fills in what only the data tell, the names of the classes for instance, when a run starts.
    """

    name: str
    sizes: Mapping[str, C]
    make_network: Callable[[C, bool], nn.Module]
    make_criterion: Callable[[C], Criterion]
    make_data: Callable[[C], Data]
    predict: Callable[[nn.Module, C, Sequence[PictureFile], float | None], list[Prediction]]
    endings: tuple[str, ...] = (".png",)
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
            steps: optimizer steps; the configuration's by default.
            resume: continue the run in `out`, with the arguments it was started with; only how steps are carried out
                (`micro_batches`, `strategy`, `num_workers`, `device`, the number of processes) and the place of the
                same data may change.
            **changes: other fields of the recipe's configuration.

        Returns:
            How the run ended.

        Raises:
            ValueError: an argument does not exist, does not fit, or differs from the resumed run's; or bad data.
            OSError: data cannot be read or results cannot be written.
            ImportError: the extra ``headwise[train]`` is missing.
        """
        folder = Path(out) if out is not None else Path("runs") / self.name
        given = {"data": data, "seed": seed, "steps": steps}
        chosen = {name: value for name, value in given.items() if value is not None} | changes
        chosen |= {name: _absolute(name, chosen[name]) for name in _PLACES & chosen.keys()}
        check_folder(folder, resume=resume)
        if resume and (folder / "config.json").is_file():
            configuration = self._resumed(folder, chosen, size)
        else:
            configuration = self.complete(
                self.configure(size or ("full" if data or chosen.get("train_split") else "tiny"), chosen)
            )
        settings = make_settings(configuration)
        goes_on = resume and bool(list_checkpoints(folder / "checkpoints"))
        return train(self.make_task(configuration, goes_on=goes_on), settings, folder, resume=resume)

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

    def _resumed(self, folder: Path, chosen: Mapping[str, Any], size: str | None) -> C:
        config = read_config(folder)
        if config.get("recipe") != self.name:
            raise ValueError(
                f"{folder}: a run of {config.get('recipe')}, not of {self.name}. Resume it by its own recipe."
            )
        stored = self.read_configuration(config["arguments"], str(folder / "config.json"))
        if size is not None and size != (own := self._size_of(stored)):
            raise ValueError(
                f"{folder}: the run was started with size {own!r}, not {size!r}. Leave it out, or start a new run."
            )
        if stored.data is not None and "data" not in chosen and not Path(stored.data).exists():
            raise FileNotFoundError(f"{folder}: its data were in {stored.data}. Give their new place with --data.")
        free = {name: value for name, value in chosen.items() if name in FREE_ARGUMENTS}
        for name, value in chosen.items():
            if name not in free and getattr(stored, name, None) != value:
                raise ValueError(
                    f"{folder}: the run was started with {name} {getattr(stored, name, None)!r}, not {value!r}. "
                    "Leave it out, or start a new run."
                )
        return replace(stored, **free)

    def _size_of(self, stored: C) -> str:
        """The size that a configuration was made from: the one with which it shares most fields, for any may be set."""
        fields = asdict(stored)
        shared = {
            size: sum(fields[name] == value for name, value in asdict(start).items())
            for size, start in self.sizes.items()
        }
        return max(shared, key=lambda size: shared[size])

    def make_task(self, configuration: C, *, goes_on: bool = False) -> Task:
        """Put the parts of the run together.

        Args:
            configuration: of the run; its seed also decides the first weights.
            goes_on: whether a checkpoint's weights will take the place of another run's, which are not looked for then.

        Returns:
            The parts.
        """
        data = self.make_data(configuration)
        if configuration.num_images not in ((), data.num_images):
            were, are = (" and ".join(map(str, each)) for each in (configuration.num_images, data.num_images))
            raise ValueError(
                f"{configuration.data}: {are} pictures to train on and held out, but the run was started with {were}. "
                "Give the same data with --data, or start a new run."
            )
        configuration = replace(configuration, num_images=data.num_images)
        network = self._first_network(configuration, goes_on)
        optimizer = make_optimizer(freeze(network, configuration.freeze), configuration)
        return Task(
            recipe=self.name,
            preset=self.name,
            card=card(self.name),
            arguments=asdict(configuration),
            network=network,
            criterion=self.make_criterion(configuration),
            optimizer=optimizer,
            scheduler=make_scheduler(optimizer, configuration),
            batches=data.batches,
            evaluate=data.evaluate,
            show=data.batches.show,
        )

    def _first_network(self, configuration: C, goes_on: bool) -> nn.Module:
        """Return the network as its training starts."""
        weights = configuration.weights
        if weights == PRETRAINED and all(each.weights != PRETRAINED for each in self.sizes.values()):
            raise ValueError(f"{self.name}: there are no pre-trained weights. Give weights of a run, or none.")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(configuration.seed)
            if weights == PRETRAINED:
                return fetching(lambda: self.make_network(configuration, True), self.name)
            network = self.make_network(configuration, False)
        if weights is not None and not goes_on:
            start_from(network, weights)
        return network


_PLACES = {"data", "weights", "train_split", "held_out_split"}
"""Arguments that may name a place on the disk, which must be found from any directory."""


def _absolute(name: str, place: str | Path | None) -> str | None:
    if place is None or str(place).lower() in NOTHING:
        return None
    if place == PRETRAINED or (name.endswith("_split") and not Path(place).is_file()):
        return str(place)
    return str(Path(os.path.expanduser(place)).absolute())
