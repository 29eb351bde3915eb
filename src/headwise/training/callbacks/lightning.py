"""The books in a Lightning Trainer."""

from __future__ import annotations

from typing import Any

from headwise.attribution.ledger.books import Books
from headwise.require import missing
from headwise.runs import Run
from headwise.training.callbacks.keeper import Keeper, Source
from headwise.whole import is_whole

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise missing("headwise.training.callbacks.lightning", "loops", error) from error


class LightningBooks(Callback):
    """Logs the books of every n-th optimizer step to the trainer's loggers; see `lightning_callback`.

    Args:
        source: Whose books.
        every: Log every so many optimizer steps; None: the trainer's ``log_every_n_steps``.
        calls: How often ``training_step`` calls the criterion.
        prefix: What the keys begin with.
        run: A run folder that gets the books too.

    Raises:
        ValueError: The source keeps no books, or a number is below 1.
    """

    def __init__(
        self,
        source: Source,
        every: int | None = None,
        calls: int = 1,
        prefix: str = "headwise",
        run: Run | None = None,
    ) -> None:
        if every is not None and not is_whole(every, 1):
            raise ValueError(f"every: log every so many optimizer steps, at least 1; found {every}.")
        self._keeper, self._every, self._prefix = Keeper(source, calls, run), every, prefix
        self._step: int | None = None

    @property
    def history(self) -> list[Books]:
        """The books that were logged, oldest first."""
        return self._keeper.history

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The first micro-batch of an optimizer step opens the books of it."""
        if self._step != trainer.global_step:
            self._step = trainer.global_step
            self._keeper.begin(trainer.accumulate_grad_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The last micro-batch of an optimizer step has its books read, where it is time to log."""
        every = self._every or trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by its connector
        if trainer.global_step == self._step or not every or trainer.global_step % every or not trainer.is_global_zero:
            return
        entries = self._keeper.read(trainer.global_step, self._prefix)
        for logger in trainer.loggers if entries else ():
            logger.log_metrics(entries, step=trainer.global_step)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The loop broke off: close the books."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The end: close the books."""
        self._close()

    def _close(self) -> None:
        self._keeper.close()
        self._step = None
