"""The loop: steps, books, logs, evaluations and checkpoints, from any step on, on one process or many."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headwise.attribution.ledger.books import Books
from headwise.attribution.ledger.ledger import Ledger
from headwise.training.checkpoints import newest_checkpoint, save_checkpoint
from headwise.training.engine import load_network, load_optimiser, open_fabric, seed_step, set_up, whole
from headwise.training.interrupts import Interrupts
from headwise.training.logs import NoLog, RunLog, step_entry
from headwise.training.progress import NoProgress, Progress, open_progress
from headwise.training.ranks import Ranks, join_ranks, naming_lost_ranks
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
        OSError: something cannot be written, or another process of the run ended.
        ImportError: the extra ``headwise[train]`` is missing.
    """
    folder = Path(folder)
    fabric = open_fabric(settings)
    ranks = join_ranks(fabric.global_rank, fabric.world_size)
    progress = open_progress() if ranks.rank == 0 else NoProgress()
    try:
        with naming_lost_ranks(ranks):
            saved = ranks.from_first(
                _open_folder(task, settings, folder, progress, resume) if ranks.rank == 0 else None
            )
            run = _Run(task, settings, folder, fabric, progress, saved, ranks)
            try:
                with Interrupts() as interrupts, run.open_ledger() as ledger:
                    return run.finish(ledger, interrupts)
            finally:
                run.log.close()
    finally:
        progress.close()


def _open_folder(
    task: Task, settings: Settings, folder: Path, progress: Progress, resume: bool
) -> Mapping[str, Any] | None:
    """Return what to continue from; None, in a folder made anew, for a fresh run."""
    saved = _saved_state(task, folder, progress) if resume else None
    if saved is None:
        start_folder(folder, task, settings)
    return saved


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
        ranks: Ranks,
    ) -> None:
        self.task, self.settings, self.folder = task, settings, folder
        self.fabric, self.progress, self.ranks = fabric, progress, ranks
        self.step = 0
        self.clock = _Clock(0.0)
        self.scores: Mapping[str, Any] = {}
        if settings.channels_last:
            task.network.to(memory_format=torch.channels_last)
        sharded = ranks.count > 1 and settings.strategy == "fsdp2"
        self.plain = copy.deepcopy(task.network).to(fabric.device) if sharded else task.network
        self.network, self.optimiser = set_up(fabric, task.network, task.optimiser)
        task.criterion.to(fabric.device)
        if saved is not None:
            self._restore(saved)
        self.log = RunLog(folder, self.step) if ranks.rank == 0 else NoLog()

    def open_ledger(self) -> Ledger:
        """Open the books of the last step, all its micro-batches together."""
        return Ledger(
            self.task.criterion,
            self.task.network,
            capacity=1,
            micro_batches=self.settings.micro_batches,
            on_nonfinite=self.settings.on_nonfinite,
        )

    def finish(self, ledger: Ledger, interrupts: Interrupts) -> Outcome:
        """Do the remaining steps, or those up to the next signal."""
        settings = self.settings
        self.clock.restart()
        for batches in self._steps():
            rate = float(self.optimiser.param_groups[0]["lr"])
            self._train_one(batches)
            if self._due(settings.log_every) or self.step == 1:
                self._log(ledger, rate)
            if self._due(settings.evaluate_every):
                self._evaluate()
            # A signal reaches the processes at different moments; they stop after the same step.
            received = self.ranks.most(interrupts.received or 0)
            stopped = received != 0 and self.step < settings.steps
            if self._due(settings.checkpoint_every) or stopped:
                self._save()
            if stopped:
                self._say_how_to_resume(received)
                return Outcome(self.folder, self.step, received, self.scores)
        return Outcome(self.folder, self.step, None, self.scores)

    def _steps(self) -> Iterator[list[Batch]]:
        """This process's micro-batches, one list a step."""
        count = self.settings.micro_batches
        stream = iter(self.task.batches(self.step, self.settings.steps, count, self.ranks))
        while batches := list(islice(stream, count)):
            yield batches

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.settings.steps

    def _train_one(self, batches: list[Batch]) -> None:
        seed_step(self.settings.seed, self.step, self.ranks.rank)
        training_step(
            self.fabric,
            self.network,
            self.task.criterion,
            self.optimiser,
            batches,
            clip_norm=self.settings.clip_norm,
            channels_last=self.settings.channels_last,
        )
        self.task.scheduler.step()
        self.step += 1
        self.clock.count(sum(len(batch.images) for batch in batches) * self.ranks.count)

    def _log(self, ledger: Ledger, rate: float) -> None:
        books = ledger.read(across_ranks=self.ranks.count > 1)
        pace = self.clock.pace()
        entry = step_entry(self.step, books, time=self.clock.seconds, images_per_second=pace, learning_rate=rate)
        self.log.step(entry)
        self.progress.show(entry, self.settings.steps)
        self._warn(books)

    def _warn(self, books: Books) -> None:
        """Name the terms whose gradient is not finite, on whatever process that happened."""
        for name in books.names:
            if not books[name].finite:
                paths = ", ".join(path for path, output in books[name].outputs.items() if not output.finite)
                self.progress.say(
                    f"headwise: warning: step {self.step}: the gradient of term {name!r} is not finite (output "
                    f"{paths}); on_nonfinite is {self.settings.on_nonfinite!r}."
                )

    def _evaluate(self) -> None:
        """Evaluate, with samples at the last step, outside the measured pace."""
        if self.task.evaluate is None:
            return
        samples = self.folder / "samples" if self.step == self.settings.steps else None
        if self.plain is not self.task.network:
            self.plain.load_state_dict(whole(self.task.network.state_dict()))
        self.scores = self.task.evaluate(self.plain, samples, self.ranks)
        self.log.evaluation(self.step, self.scores)
        self.progress.say(f"step {self.step} held out: {_summary(self.scores)}")
        self.clock.skip()

    def _save(self) -> None:
        """Write a checkpoint on the first process, after the logs that it vouches for."""
        self.log.sync()
        state = {
            "recipe": self.task.recipe,
            "preset": self.task.preset,
            "arguments": dict(self.task.arguments),
            "network": whole(self.task.network.state_dict()),
            "criterion": self.task.criterion.state_dict(),
            "optimiser": whole(self.optimiser.state_dict()),
            "scheduler": self.task.scheduler.state_dict(),
            "seconds": self.clock.seconds,
            "scores": dict(self.scores),
        }
        if self.ranks.rank == 0:
            save_checkpoint(self.folder / "checkpoints", self.step, state, keep=self.settings.keep_checkpoints)

    def _restore(self, saved: Mapping[str, Any]) -> None:
        load_network(self.task.network, saved["network"])
        self.task.criterion.load_state_dict(saved["criterion"])
        load_optimiser(self.optimiser, saved["optimiser"])
        self.task.scheduler.load_state_dict(saved["scheduler"])
        self.step = saved["step"]
        self.clock = _Clock(saved["seconds"])
        self.scores = saved["scores"]

    def _say_how_to_resume(self, number: int) -> None:
        name = signal.Signals(number).name
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


def _summary(scores: Mapping[str, Any]) -> str:
    """The measures in a line, without those that are tables of their own (a row per class)."""
    lines = []
    for name, measure in scores.items():
        numbers = measure.items() if isinstance(measure, Mapping) else ()
        told = " ".join(f"{key} {number:.3f}" for key, number in numbers if isinstance(number, int | float))
        lines += [f"{name} {told}"] if told else []
    return ", ".join(lines)
