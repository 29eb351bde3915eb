"""The books in a Hugging Face Trainer."""

from __future__ import annotations

from typing import Any

from headwise.attribution.ledger.books import Books
from headwise.require import missing
from headwise.runs import Run
from headwise.training.callbacks.keeper import Keeper, Source
from headwise.training.callbacks.writers import Writers

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise missing("headwise.training.callbacks.huggingface", "loops", error) from error


class HuggingFaceBooks(TrainerCallback):
    """Logs the books of the step whenever the trainer logs its loss; see `huggingface_callback`.

    Args:
        source: Whose books.
        calls: How often one micro-batch calls the criterion.
        prefix: What the keys begin with.
        run: A run folder that gets the books too.

    Raises:
        ValueError: The source keeps no books, or `calls` is below 1.
    """

    def __init__(self, source: Source, calls: int = 1, prefix: str = "headwise", run: Run | None = None) -> None:
        self._keeper, self._prefix = Keeper(source, calls, run), prefix
        self._writers: Writers | None = None
        self._step_ended = False

    @property
    def history(self) -> list[Books]:
        """The books that were logged, oldest first."""
        return self._keeper.history

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An optimizer step begins: open its books."""
        self._keeper.begin(args.gradient_accumulation_steps)
        self._step_ended = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """An optimizer step ends: its books may be read."""
        self._step_ended = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """The trainer logs its loss: read the books of the step that has just ended."""
        if logs is None or "loss" not in logs or not self._step_ended or not state.is_world_process_zero:
            return  # an evaluation, the summary at the end, or a log of the user's own in the middle of a step
        entries = self._keeper.read(state.global_step, self._prefix)
        if not entries:
            return
        state.log_history[-1].update(entries)
        if self._writers is None:
            self._writers = Writers(args.report_to or (), args.output_dir or ".")
        self._writers.write(entries, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The end: close books and writers."""
        self._keeper.close()
        if self._writers is not None:
            self._writers.close()
            self._writers = None
