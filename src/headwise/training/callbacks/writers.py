"""Loggers written to directly, where a loop would rename the keys."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from headwise.require import require


class Writers:
    """Writes entries, under the keys they have, to the loggers that a loop reports to.

    TensorBoard gets an event file of its own; W&B and MLflow get the entries in the run that is active, which the loop
    has begun.

    Args:
        names: Of the loggers: any of "tensorboard", "wandb", "mlflow"; others are passed over.
        folder: The event file goes into ``runs`` under it; the environment's ``TENSORBOARD_LOGGING_DIR`` comes first.
    """

    def __init__(self, names: Sequence[str], folder: str) -> None:
        self._board: Any = None
        if "tensorboard" in names:
            require("TensorBoard's event files", "loops", "tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            begun = time.strftime("%b%d_%H-%M-%S")
            place = os.environ.get("TENSORBOARD_LOGGING_DIR") or Path(folder) / "runs" / f"{begun}_headwise"
            self._board = SummaryWriter(str(place))
        self._wandb = import_module("wandb") if "wandb" in names else None
        self._mlflow = import_module("mlflow") if "mlflow" in names else None

    def write(self, entries: Mapping[str, float], step: int) -> None:
        """Write the entries of one step.

        Args:
            entries: Key to number.
            step: Optimizer steps done.
        """
        if self._board is not None:
            for key, value in entries.items():
                self._board.add_scalar(key, value, step)
            self._board.flush()
        if self._wandb is not None and self._wandb.run is not None:
            self._wandb.log({**entries, "train/global_step": step})
        if self._mlflow is not None and self._mlflow.active_run() is not None:
            self._mlflow.log_metrics(dict(entries), step=step)

    def close(self) -> None:
        """Close the event file."""
        if self._board is not None:
            self._board.close()
