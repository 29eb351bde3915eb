"""What a training run consists of: the parts, which a recipe puts together, and the numbers of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from headwise.balance.said import read_rule
from headwise.criterion import Criterion
from headwise.runs.top_samples import Show
from headwise.training.ranks import PATIENCE, Ranks

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class Batch(NamedTuple):
    """Images (N, 3, H, W) with the targets that the criterion reads, and what the samples are called, if anything."""

    images: Tensor
    targets: dict[str, Any]
    ids: Sequence[Any] | None = None


_LONGEST = 1e6
"""Seconds, beyond which no system waits for a message."""


@dataclass(frozen=True)
class Settings:
    """The numbers of a run.

    Args:
        steps: optimizer steps in all.
        seed: of the run.
        log_every: steps between two log lines, which cost one transfer from the device each.
        checkpoint_every: steps between two checkpoints.
        evaluate_every: steps between two evaluations; the last step is always evaluated.
        keep_checkpoints: how many of the newest stay.
        micro_batches: parts into which each process splits its share of a step; the gradient does not depend on it.
        precision: "32-true"; or autocast to "bf16-mixed" or "16-mixed", the latter with a GradScaler, which skips the
            steps by which it finds its scale. Shards ("fsdp2") cannot be combined with "16-mixed".
        strategy: between processes: "ddp", or "fsdp2" where weights do not fit one device.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        on_nonfinite: what happens to a term whose gradient is not finite, as in `Criterion`; on all processes alike.
        balance: how weights follow the books, as `balance.said.read_rule` takes it; None: they do not.
        clip_norm: largest norm of the gradient over all parameters; None for no limit.
        channels_last: whether images and weights lie channel by channel in memory, which is faster for most
            convolutions.
        patience: seconds that the batches of a step may take, and that a process may give no sign of life to the
            others, before the run ends.
        samples: how many samples to keep per term, those with the largest gradient and value; 0 for none.

    Raises:
        ValueError: a number below 1, a seed below 0, a patience out of range, an unknown strategy or precision, or two
            that exclude each other.
    """

    steps: int
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 200
    evaluate_every: int = 1000
    keep_checkpoints: int = 3
    micro_batches: int = 1
    precision: Precision = "32-true"
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    device: str = "auto"
    on_nonfinite: Literal["keep", "drop", "raise"] = "keep"
    balance: str | None = None
    clip_norm: float | None = None
    channels_last: bool = True
    patience: float = PATIENCE
    samples: int = 16

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, but must be at least 0.")
        if not 0 < self.patience <= _LONGEST:
            raise ValueError(f"patience is {self.patience} s, but must be above 0 and at most {_LONGEST:.0f}.")
        if self.balance is not None:
            read_rule(self.balance)
        if self.clip_norm is not None and not (isinstance(self.clip_norm, int | float) and self.clip_norm > 0):
            raise ValueError(f"clip_norm is {self.clip_norm!r}, but must be a number above 0, or None for no limit.")
        if self.samples < 0:
            raise ValueError(f"samples is {self.samples}, but must be at least 0.")
        if self.strategy not in ("ddp", "fsdp2"):
            raise ValueError(f"strategy is ddp or fsdp2, found {self.strategy!r}.")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision is one of {', '.join(get_args(Precision))}, found {self.precision!r}.")
        if self.precision == "16-mixed" and (self.strategy, self.on_nonfinite) != ("ddp", "keep"):
            raise ValueError(
                "precision 16-mixed goes with strategy ddp and on_nonfinite keep, found "
                f"{self.strategy} and {self.on_nonfinite}: its GradScaler overflows on purpose, skips such steps "
                "itself, and does not see other shards. Take bf16-mixed, or leave both as they are."
            )
        numbers = ("steps", "log_every", "checkpoint_every", "evaluate_every", "keep_checkpoints", "micro_batches")
        for name in numbers:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")


@dataclass(frozen=True)
class Task:
    """The parts of a run.

    Args:
        recipe: its name.
        preset: of the criterion; a checkpoint of another preset is refused.
        card: the preset's description.
        arguments: what the recipe was called with; a resumed run must be called with the same.
        network: maps images to the outputs that the criterion reads.
        criterion: the terms.
        optimizer: over the network's parameters.
        scheduler: of the learning rate, stepped once per optimizer step.
        batches: (first step, last step, micro-batches a step, ranks) -> this process's micro-batches of these
            steps, one after the other; what a step holds is a function of the seed and the step alone.
        evaluate: (network, folder for samples or None, ranks) -> measures by name, the same on every process; None
            for no evaluation. It must leave the network as it was.
        show: what a sample of the batches is, by its id, for the page.
    """

    recipe: str
    preset: str
    card: str
    arguments: Mapping[str, Any]
    network: nn.Module
    criterion: Criterion
    optimizer: Optimizer
    scheduler: LRScheduler
    batches: Callable[[int, int, int, Ranks], Iterable[Batch]]
    evaluate: Callable[[nn.Module, Path | None, Ranks], Mapping[str, Any]] | None = None
    show: Show | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        folder: of the run.
        steps: optimizer steps done.
        signal: the number of the signal that ended it early; None for a finished run.
        scores: of the last evaluation.
    """

    folder: Path
    steps: int
    signal: int | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)
