"""The books in a loop written with Accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from headwise.attribution.ledger.books import Books
from headwise.closing import Closing
from headwise.runs import Run
from headwise.training.callbacks.keeper import Keeper, Source
from headwise.whole import is_whole

if TYPE_CHECKING:
    from accelerate import Accelerator


class AccelerateHooks(Closing):
    """Logs the books of every n-th optimizer step to the accelerator's trackers; see `accelerate_hooks`.

    Args:
        accelerator: Of the loop.
        optimizer: Prepared or not; its steps are the loop's steps.
        source: Whose books.
        every: Log every so many optimizer steps.
        calls: How often one micro-batch calls the criterion.
        prefix: What the keys begin with.
        run: A run folder that gets the books too.

    Attributes:
        step: Optimizer steps done, those before `run` was resumed included; set it where a loop without a run goes on.

    Raises:
        ValueError: The source keeps no books, or a number is below 1.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        optimizer: Optimizer,
        source: Source,
        every: int = 50,
        calls: int = 1,
        prefix: str = "headwise",
        run: Run | None = None,
    ) -> None:
        if not is_whole(every, 1):
            raise ValueError(f"every: log every so many optimizer steps, at least 1; found {every}.")
        self.step = 0 if run is None else run.resumed
        self._accelerator, self._every, self._prefix = accelerator, every, prefix
        self._keeper = Keeper(source, calls, run)
        # What `prepare` returns passes a step on only when gradients are complete; the optimizer inside sees those.
        inside: Optimizer = getattr(optimizer, "optimizer", optimizer)
        self._handle = inside.register_step_post_hook(self._after_step)
        self._keeper.begin(accelerator.gradient_accumulation_steps)

    @property
    def history(self) -> list[Books]:
        """The books that were logged, oldest first."""
        return self._keeper.history

    def _after_step(self, *_: Any) -> None:
        self.step += 1
        if self.step % self._every == 0 and self._accelerator.is_main_process:
            entries = self._keeper.read(self.step, self._prefix)
            if entries:
                self._accelerator.log(entries, step=self.step)
        self._keeper.begin(self._accelerator.gradient_accumulation_steps)

    def close(self) -> None:
        """Take the hook off the optimizer and close the books."""
        self._handle.remove()
        self._keeper.close()


def accelerate_hooks(
    accelerator: Accelerator,
    optimizer: Optimizer,
    source: Source,
    *,
    every: int = 50,
    calls: int = 1,
    prefix: str = "headwise",
    run: Run | None = None,
) -> AccelerateHooks:
    """Log the books in a loop written with Accelerate, to all its trackers, from here on.

    One line before the loop, which stays as it is::

        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        hooks = accelerate_hooks(accelerator, optimizer, criterion)

    Args:
        accelerator: Its trackers get the entries; its ``gradient_accumulation_steps`` are counted.
        optimizer: The optimizer, prepared or not.
        source: The `Criterion` that the loop calls; a `Ledger` of it; or a wrapped foreign criterion. See `Keeper`.
        every: Log every so many optimizer steps.
        calls: How often one micro-batch calls the criterion.
        prefix: What the keys begin with.
        run: A run folder (`headwise.Run`) that gets the books too, for the page, the comparison and the alerts.

    Returns:
        The hooks; `history` has the logged books, `close` (or ``with``) ends them.

    Raises:
        ValueError: The source keeps no books, or a number is below 1.
    """
    return AccelerateHooks(accelerator, optimizer, source, every, calls, prefix, run)
