"""What every run depends on, whatever it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from headwise.recipes.fields import Count, Natural, NotNegative, Positive, PositiveShare, check_ranges, read_fields
from headwise.training.ranks import PATIENCE
from headwise.training.task import Precision


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The numbers that all recipes share; each recipe adds its own.

    Args:
        data: a folder of the recipe's format; None for the embedded pictures.
        train_split: the training pictures' split of `data`; None for the usual name that is found.
        held_out_split: the held-out pictures' split of `data`; None for the usual name that is found.
        weights: "DEFAULT" for pre-trained ones where the network has some; None for random ones; or a run or a
            checkpoint of the same recipe, whose weights are taken as far as they fit.
        freeze: what the names of parameters begin with that keep their values.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        seed: of weights, order and augmentation.
        steps: optimizer steps.
        batch_size: images a step, over all processes.
        micro_batches: parts into which each process splits its share of a step, to save memory.
        optimizer: "adamw", or "sgd" with a momentum of 0.9.
        learning_rate: the highest, where it moves in one cycle.
        schedule: "one_cycle": up, then down to nothing; or "step": a tenth after `drop` of the steps.
        drop: share of the steps before the drop.
        weight_decay: decoupled for AdamW.
        clip_norm: largest norm of the gradient.
        precision: "32-true", or "bf16-mixed" or "16-mixed" for autocast, as in `training.Settings`.
        strategy: between processes, "ddp" or "fsdp2".
        on_nonfinite: "keep", "drop" or "raise": what happens to a term whose gradient is not finite.
        balance_terms: how weights follow the books while training: equal, grad_norm, uncertainty, or shares of the
            gradient such as box=2,classification=1; None leaves them as they are.
        num_workers: processes that load; the batches do not depend on it.
        patience: seconds that the batches of a step may take, and a process may give no sign of life, before the run
            ends.
        log_every: steps.
        checkpoint_every: steps.
        evaluate_every: steps.
        broken_pictures: "refuse" those of one's own data that cannot be used, before the first step, or "skip" and
            count
            them: the held-out ones before, the others on the way.
        num_images: how many pictures there are to train on and how many are held out; from the data.
    """

    data: str | None = None
    train_split: str | None = None
    held_out_split: str | None = None
    weights: str | None = None
    freeze: tuple[str, ...] = ()
    device: str = "auto"
    seed: Natural = 0
    steps: Count = 1000
    batch_size: Count = 8
    micro_batches: Count = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    schedule: Literal["one_cycle", "step"] = "one_cycle"
    drop: PositiveShare = 0.5
    weight_decay: NotNegative = 0.0
    clip_norm: Positive | None = None
    precision: Precision = "32-true"
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    on_nonfinite: Literal["keep", "drop", "raise"] = "keep"
    balance_terms: str | None = None
    num_workers: Natural = 4
    patience: float = PATIENCE
    log_every: Count = 50
    checkpoint_every: Count = 1000
    evaluate_every: Count = 5000
    broken_pictures: Literal["refuse", "skip"] = "refuse"
    num_images: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))

    @property
    def has_own_data(self) -> bool:
        """Whether the pictures are the user's: a folder, or a file each for the two splits."""
        return self.data is not None or self.train_split is not None

    @classmethod
    def from_dict(cls, arguments: Mapping[str, Any], where: str) -> Self:
        """Read a configuration, from Python, JSON, YAML or the command's words.

        Args:
            arguments: fields by name.
            where: the file or recipe it is from, for the error.

        Returns:
            The configuration.

        Raises:
            ValueError: a key that does not exist, or a value of another kind.
        """
        return cls(**read_fields(cls, arguments, where))

    def shared(self, kind: type[Configuration]) -> dict[str, Any]:
        """Return what this configuration says of the fields that another kind has too.

        Args:
            kind: of which both are.

        Returns:
            Value by field.
        """
        return {field.name: getattr(self, field.name) for field in fields(kind)}
