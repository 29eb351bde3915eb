"""The loop: steps, books, logs, evaluations and checkpoints, from any step on."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headwise.attribution.ledger.ledger import Ledger
from headwise.training.checkpoints import (
    newest_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
    seed_random_state,
)
from headwise.training.interrupts import Interrupts
from headwise.training.logs import RunLog, step_entry
from headwise.training.progress import Progress, open_progress
from headwise.training.run_folder import start_folder
from headwise.training.step import training_step
from headwise.training.task import Batch, Outcome, Settings, Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(task: Task, settings: Settings, folder: str | Path, *, resume: bool = False) -> Outcome:
    """Train, or continue to train, and leave everything in one folder.

    The folder holds ``config.json``, ``log.jsonl``, ``evaluation.jsonl``, ``checkpoints/``, ``samples/`` and
    ``tensorboard/``. A run that was killed at any moment and is resumed ends with the same weights and the
    same log lines (but for times), to the bit, on the same machine and versions.

    Args:
        task: the parts.
        settings: the numbers.
        folder: of the run.
        resume: continue from the newest checkpoint that can be read.

    Returns:
        How it ended. After SIGINT or SIGTERM the step is finished and a checkpoint written first.

    Raises:
        ValueError: a run is there already (without `resume`), or its checkpoints cannot be used.
        OSError: something cannot be written.
        ImportError: the extra ``headwise[train]`` is missing.
    """
    folder = Path(folder)
    fabric = _open_fabric(settings)
    progress = open_progress()
    try:
        saved = _saved_state(task, folder, progress) if resume else None
        if saved is None:
            start_folder(folder, task, settings)
            seed_random_state(settings.seed)
        run = _Run(task, settings, folder, fabric, progress, saved)
        try:
            with Interrupts() as interrupts, Ledger(task.criterion, task.network, capacity=1) as ledger:
                return run.finish(ledger, interrupts)
        finally:
            run.log.close()
    finally:
        progress.close()


class _Run:
    """A run under way: what moves from step to step."""

    def __init__(
        self,
        task: Task,
        settings: Settings,
        folder: Path,
        fabric: Fabric,
        progress: Progress,
        saved: Mapping[str, Any] | None,
    ) -> None:
        self.task, self.settings, self.folder = task, settings, folder
        self.fabric, self.progress = fabric, progress
        self.step = 0
        self.clock = _Clock(0.0)
        self.scores: Mapping[str, Any] = {}
        if settings.channels_last:
            task.network.to(memory_format=torch.channels_last)
        self.network, self.optimiser = fabric.setup(task.network, task.optimiser)
        task.criterion.to(fabric.device)
        if saved is not None:
            self._restore(saved)
        self.log = RunLog(folder, self.step)

    def finish(self, ledger: Ledger, interrupts: Interrupts) -> Outcome:
        """Do the remaining steps, or those up to the next signal."""
        settings = self.settings
        self.clock.restart()
        for batch in self.task.batches(self.step, settings.steps):
            rate = float(self.optimiser.param_groups[0]["lr"])
            self._train_one(batch)
            if self._due(settings.log_every) or self.step == 1:
                self._log(ledger, rate)
            if self._due(settings.evaluate_every):
                self._evaluate()
            stopped = interrupts.received is not None and self.step < settings.steps
            if self._due(settings.checkpoint_every) or stopped:
                self._save()
            if stopped:
                self._say_how_to_resume(interrupts.received)
                return Outcome(self.folder, self.step, interrupts.received, self.scores)
        return Outcome(self.folder, self.step, None, self.scores)

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.settings.steps

    def _train_one(self, batch: Batch) -> None:
        training_step(
            self.fabric,
            self.network,
            self.task.criterion,
            self.optimiser,
            batch,
            clip_norm=self.settings.clip_norm,
            channels_last=self.settings.channels_last,
        )
        self.task.scheduler.step()
        self.step += 1
        self.clock.count(len(batch.images))

    def _log(self, ledger: Ledger, rate: float) -> None:
        books = ledger.read()
        pace = self.clock.pace()
        entry = step_entry(self.step, books, time=self.clock.seconds, images_per_second=pace, learning_rate=rate)
        self.log.step(entry)
        self.progress.show(entry, self.settings.steps)

    def _evaluate(self) -> None:
        """Evaluate, with samples at the last step, outside the measured pace."""
        if self.task.evaluate is None:
            return
        samples = self.folder / "samples" if self.step == self.settings.steps else None
        self.scores = self.task.evaluate(self.task.network, samples)
        self.log.evaluation(self.step, self.scores)
        measures = {name: scores for name, scores in self.scores.items() if isinstance(scores, Mapping)}
        found = ", ".join(
            f"{name} " + " ".join(f"{key} {value:.3f}" for key, value in scores.items())
            for name, scores in measures.items()
        )
        self.progress.say(f"step {self.step} held out: {found}")
        self.clock.skip()

    def _save(self) -> None:
        """Write a checkpoint, after the logs that it vouches for."""
        self.log.sync()
        state = {
            "recipe": self.task.recipe,
            "preset": self.task.preset,
            "arguments": dict(self.task.arguments),
            "network": self.task.network.state_dict(),
            "criterion": self.task.criterion.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.task.scheduler.state_dict(),
            "random": random_state(),
            "seconds": self.clock.seconds,
            "scores": dict(self.scores),
        }
        save_checkpoint(self.folder / "checkpoints", self.step, state, keep=self.settings.keep_checkpoints)

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self.task.network.load_state_dict(saved["network"])
        self.task.criterion.load_state_dict(saved["criterion"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.task.scheduler.load_state_dict(saved["scheduler"])
        restore_random_state(saved["random"])
        self.step = saved["step"]
        self.clock = _Clock(saved["seconds"])
        self.scores = saved["scores"]

    def _say_how_to_resume(self, number: int | None) -> None:
        name = signal.Signals(number).name if number is not None else "request"
        self.progress.say(
            f"Stopped by {name} after step {self.step} of {self.settings.steps}; the checkpoint is written. "
            f"Continue with: headwise train {self.task.recipe} --out {self.folder} --resume"
        )


class _Clock:
    """The time a run has taken, over all its resumptions, and its pace since the last look."""

    def __init__(self, seconds: float) -> None:
        self._before = seconds
        self.restart()

    def restart(self) -> None:
        """Begin to count."""
        self._began = time.perf_counter()
        self.skip()

    def skip(self) -> None:
        """Leave what has just passed out of the pace."""
        self._mark = time.perf_counter()
        self._images = 0

    def count(self, images: int) -> None:
        """Note images that were trained on."""
        self._images += images

    def pace(self) -> float:
        """Return images per second since the last call, or since `skip`."""
        images, seconds = self._images, time.perf_counter() - self._mark
        self.skip()
        return images / max(seconds, 1e-9)

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken."""
        return self._before + time.perf_counter() - self._began


def _open_fabric(settings: Settings) -> Fabric:
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise ImportError(
            "headwise.training needs lightning-fabric. Install with: pip install headwise[train]"
        ) from None
    return Fabric(accelerator="auto", devices=1, precision=settings.precision)


def _saved_state(task: Task, folder: Path, progress: Progress) -> dict[str, Any] | None:
    """Return what to continue from; None where the run was ended before its first checkpoint."""
    saved = newest_checkpoint(
        folder / "checkpoints", task.preset, lambda text: progress.say(f"headwise: warning: {text}")
    )
    if saved is None:
        progress.say(f"{folder}: no checkpoint yet, so the run begins at its first step.")
        return None
    differing = [
        name
        for name in sorted(saved["arguments"].keys() | dict(task.arguments).keys())
        if saved["arguments"].get(name) != task.arguments.get(name)
    ]
    if differing:
        raise ValueError(
            f"{folder}: the run was started with another {', '.join(differing)}. Resume it with the same arguments."
        )
    progress.say(f"{folder}: continuing after step {saved['step']}.")
    return saved
