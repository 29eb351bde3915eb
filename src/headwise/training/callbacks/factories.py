"""Callbacks whose base class is a library's: the library is imported when one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwise.require import require
from headwise.runs import Run
from headwise.training.callbacks.keeper import Source

if TYPE_CHECKING:
    from headwise.training.callbacks.huggingface import HuggingFaceBooks
    from headwise.training.callbacks.lightning import LightningBooks


def lightning_callback(
    source: Source, *, every: int | None = None, calls: int = 1, prefix: str = "headwise", run: Run | None = None
) -> LightningBooks:
    """A callback for ``lightning.Trainer(callbacks=[...])`` that logs the books to all its loggers.

    Args:
        source: The `Criterion` that the module calls; a `Ledger` of it; or a wrapped foreign criterion. See `Keeper`.
        every: Log every so many optimizer steps; None: the trainer's ``log_every_n_steps``.
        calls: How often ``training_step`` calls the criterion.
        prefix: What the keys begin with.
        run: A run folder (`headwise.Run`) that gets the books too, for the page, the comparison and the alerts.

    Returns:
        The callback; `history` has the logged books.

    Raises:
        ImportError: lightning is not installed.
        ValueError: The source keeps no books, or a number is below 1.
    """
    require("lightning_callback", "loops", "lightning")
    from headwise.training.callbacks.lightning import LightningBooks

    return LightningBooks(source, every, calls, prefix, run)


def huggingface_callback(
    source: Source, *, calls: int = 1, prefix: str = "headwise", run: Run | None = None
) -> HuggingFaceBooks:
    """A callback for ``transformers.Trainer(callbacks=[...])`` that logs the books where the trainer reports to.

    The keys are written as they are, beside the trainer's own (which it puts under ``train/``): to TensorBoard, W&B and
    MLflow where ``report_to`` names them, and to ``trainer.state.log_history``.

    Args:
        source: The `Criterion` that the model or ``compute_loss`` calls; a `Ledger` of it; or a wrapped foreign
            criterion. See `Keeper`.
        calls: How often one micro-batch calls the criterion.
        prefix: What the keys begin with.
        run: A run folder (`headwise.Run`) that gets the books too.

    Returns:
        The callback; `history` has the logged books.

    Raises:
        ImportError: transformers is not installed.
        ValueError: The source keeps no books, or `calls` is below 1.
    """
    require("huggingface_callback", "loops", "transformers")
    from headwise.training.callbacks.huggingface import HuggingFaceBooks

    return HuggingFaceBooks(source, calls, prefix, run)
