"""What every run depends on, whatever it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from headwise.training.task import Precision


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The numbers that all recipes share; each recipe adds its own.

    Args:
        data: a folder of the recipe's format; None for the embedded pictures.
        seed: of weights, order and augmentation.
        steps: optimiser steps.
        batch_size: images a step, over all processes.
        micro_batches: parts into which each process splits its share of a step, to save memory.
        optimiser: "adamw", or "sgd" with a momentum of 0.9.
        learning_rate: the highest, where it moves in one cycle.
        schedule: "one_cycle": up, then down to nothing; or "step": a tenth after `drop` of the steps.
        drop: share of the steps before the drop, in (0, 1].
        weight_decay: decoupled for AdamW.
        clip_norm: largest norm of the gradient.
        precision: "32-true", or "bf16-mixed" or "16-mixed" for autocast, as in `training.Settings`.
        strategy: between processes, "ddp" or "fsdp2".
        on_nonfinite: "keep", "drop" or "raise": what happens to a term whose gradient is not finite.
        num_workers: processes that load; the batches do not depend on it.
        log_every: steps.
        checkpoint_every: steps.
        evaluate_every: steps.
    """

    data: str | None = None
    seed: int = 0
    steps: int = 1000
    batch_size: int = 8
    micro_batches: int = 1
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["one_cycle", "step"] = "one_cycle"
    drop: float = 0.5
    weight_decay: float = 0.0
    clip_norm: float | None = None
    precision: Precision = "32-true"
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    on_nonfinite: Literal["keep", "drop", "raise"] = "keep"
    num_workers: int = 4
    log_every: int = 50
    checkpoint_every: int = 1000
    evaluate_every: int = 5000

    @classmethod
    def from_dict(cls, arguments: Mapping[str, Any], where: str) -> Self:
        """Read a configuration back.

        Args:
            arguments: what `dataclasses.asdict` gave, perhaps by way of JSON.
            where: the file or recipe it is from, for the error.

        Returns:
            The configuration.

        Raises:
            ValueError: a key that does not exist.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(arguments.keys() - known)
        if unknown:
            raise ValueError(f"{where}: no argument {unknown[0]!r}. There are: {', '.join(sorted(known))}.")
        return cls(**{key: _as_tuples(value) for key, value in arguments.items()})


def _as_tuples(value: Any) -> Any:
    """JSON knows lists alone; a configuration is compared and hashed, so it holds tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
