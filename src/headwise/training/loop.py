"""The loop: steps, books, logs, evaluations and checkpoints, from any step on, on one process or many."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwise.attribution.ledger.books import TermBooks
from headwise.attribution.ledger.ledger import Ledger
from headwise.attribution.ledger.weighing.balancing import moving_weights
from headwise.balance.said import read_rule
from headwise.runs.alerts import Watch
from headwise.runs.folder_lock import check_sole, sole_run
from headwise.runs.log import NoLog, RunLog, step_entry
from headwise.runs.top_samples import TopSamples
from headwise.training.engine import open_fabric
from headwise.training.folder.checkpoints import save_checkpoint
from headwise.training.folder.run_folder import note_saved, open_folder, run_id
from headwise.training.processes.interrupts import Interrupts, Stop, end_daemons_at_exit
from headwise.training.progress import NoProgress, Progress, open_progress
from headwise.training.ranks import Ranks, error_line, join_ranks, naming_lost_ranks, restarted_by_torchrun
from headwise.training.stopwatch import Stopwatch
from headwise.training.task import Batch, Outcome, Settings, Task
from headwise.training.trained import TrainedParts

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(task: Task, settings: Settings, folder: str | Path, *, resume: bool = False) -> Outcome:
    """Train, or continue to train, and leave everything in one folder.

    The folder holds ``config.json``, ``log.jsonl``, ``evaluation.jsonl``, ``checkpoints/``, ``samples/`` and
    ``tensorboard/``. A run that was killed at any moment and is resumed ends with the same weights and the
    same log lines (but for times), to the bit, on the same machine and versions.

    Where torchrun started several processes, each calls this; they share every step and evaluation, and the first one
    keeps the folder. A run that torchrun started again is resumed.

    Args:
        task: the parts.
        settings: the numbers.
        folder: of the run.
        resume: continue from the newest checkpoint that can be read.

    Returns:
        How it ended. After SIGINT or SIGTERM the step is finished and a checkpoint written first.

    Raises:
        ValueError: a run is there already (without `resume`), or under way, or its checkpoints cannot be used.
        OSError: something cannot be read or written, batches do not come, or another process ended or stands.
        FloatingPointError: a term's gradient is not finite, and `Settings.on_nonfinite` is "raise".
        ImportError: the extra ``headwise[train]`` is missing.
    """
    folder = Path(folder)
    fabric = open_fabric(settings)
    ranks = join_ranks(fabric.global_rank, fabric.world_size)
    end_daemons_at_exit()
    with (
        naming_lost_ranks(ranks, settings.patience),
        Interrupts() as interrupts,
        _shown(ranks) as progress,
        _alone_in(folder, ranks, progress),
    ):
        run = _Training(task, settings, folder, fabric, progress, ranks, resume=resume or restarted_by_torchrun())
        with closing(run.log), run.open_ledger() as ledger:
            return run.finish(ledger, interrupts)


@contextmanager
def _shown(ranks: Ranks) -> Iterator[Progress]:
    """Show the run, on the first process."""
    with closing(open_progress() if ranks.rank == 0 else NoProgress()) as progress:
        yield progress


@contextmanager
def _alone_in(folder: Path, ranks: Ranks, progress: Progress) -> Iterator[None]:
    """Keep other runs out of the folder; the first process does it for all."""
    with ExitStack() as stack:
        ranks.on_first(lambda: stack.enter_context(sole_run(folder, progress.say)))
        yield


class _Training:
    """A run under way: what moves from step to step."""

    def __init__(
        self,
        task: Task,
        settings: Settings,
        folder: Path,
        fabric: Fabric,
        progress: Progress,
        ranks: Ranks,
        *,
        resume: bool,
    ) -> None:
        saved = ranks.on_first(lambda: open_folder(folder, task, settings, progress.say, resume=resume))
        self.task, self.settings, self.folder = task, settings, folder
        self.progress, self.ranks = progress, ranks
        self.step = self.saved = 0
        self.clock = Stopwatch(0.0)
        self.scores: Mapping[str, Any] = {}
        self.books: Mapping[str, Any] = {}  # what the ledger goes on from
        self.trained = TrainedParts(task, settings, fabric, ranks)
        self.run = run_id(folder) if ranks.rank == 0 else None
        if saved is not None:
            self._restore(saved)
        self.first = self.logged = self.step
        self.watch = Watch(moving_weights(task.criterion, settings.balance))
        self.log = RunLog(folder, self.step) if ranks.rank == 0 else NoLog()
        self.top = TopSamples(folder, task.show) if settings.samples else None
        self.num_logged = 0

    def open_ledger(self) -> Ledger:
        """Open the books of a step, all its micro-batches together: the last, or all since the last log line.

        A gradient that is kept spoils all later steps, but one that is dropped leaves no trace in them.
        """
        self.ledger = Ledger(
            self.task.criterion,
            self.task.network,
            capacity=self.settings.log_every if self.settings.on_nonfinite == "drop" else 1,
            micro_batches=self.settings.micro_batches,
            on_nonfinite=self.settings.on_nonfinite,
            balance=None if self.settings.balance is None else read_rule(self.settings.balance),
            samples=self.settings.samples,
        )
        self.ledger.load_state_dict(self.books)
        return self.ledger

    def finish(self, ledger: Ledger, interrupts: Interrupts) -> Outcome:
        """Do the remaining steps, or those up to the next signal."""
        self.clock.restart()
        steps = self._batches_by_step()
        while self.step < self.settings.steps:
            batches, error = self._load(steps, interrupts)
            received = self._agree(interrupts.received, error)
            if received is not None:
                self._save()
                self._say_how_to_resume(received)
                return Outcome(self.folder, self.step, received, self.scores)
            self._do(batches, ledger)
        return Outcome(self.folder, self.step, None, self.scores)

    def _load(self, steps: Iterator[list[Batch]], interrupts: Interrupts) -> tuple[list[Batch], Exception | None]:
        """Return the next step's batches; or why there are none, a picture that was removed for instance."""
        try:
            with interrupts.breaking_off(self.settings.patience, f"loading the batches of step {self.step + 1}"):
                return next(steps), None
        except Stop:
            return [], None
        except Exception as error:  # whatever it is, what was trained so far is saved first
            return [], None if interrupts.received is not None else error

    def _batches_by_step(self) -> Iterator[list[Batch]]:
        """This process's micro-batches, one list a step."""
        count = self.settings.micro_batches
        stream = iter(self.task.batches(self.step, self.settings.steps, count, self.ranks))
        while batches := list(islice(stream, count)):
            yield batches
        raise ValueError(f"the batches end at step {self.step} of {self.settings.steps}. Give batches for every step.")

    def _agree(self, received: int | None, error: Exception | None) -> int | None:
        """Return the signal that any process received, on all; they reach the processes at different moments.

        Where a process cannot load its batches, all of them keep what was reached, and stop.
        """
        reason = self.ranks.most(_ERROR if error is not None else received or 0)
        if reason < _ERROR:
            return reason or None
        if self.saved < self.step:
            self._save()
        told = self.ranks.gather([error and error_line(error)])
        if error is not None:
            raise error
        raise OSError("; ".join(f"process {rank}: {text}" for rank, text in enumerate(told) if text is not None))

    def _do(self, batches: list[Batch], ledger: Ledger) -> None:
        """Train on the batches of a step, and do what is due after it."""
        rate = self.trained.rate
        self.trained.train(batches, self.step)
        self.step += 1
        self.clock.count(sum(len(batch.images) for batch in batches) * self.ranks.count)
        if self._due(self.settings.log_every) or self.step == 1:
            self._log(ledger, rate)
        if self._due(self.settings.evaluate_every):
            self._evaluate()
        if self._due(self.settings.checkpoint_every):
            self._save()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.settings.steps

    def _log(self, ledger: Ledger, rate: float) -> None:
        if self.ranks.rank == 0:
            check_sole(self.folder)
        books = ledger.read(across_ranks=self.ranks.count > 1)
        pace = self.clock.pace()
        entry = step_entry(self.step, books, time=self.clock.seconds, images_per_second=pace, learning_rate=rate)
        self.log.step(entry)
        self.progress.show(entry, self.settings.steps)
        if self.num_logged % _SAMPLES_EVERY == 0 or self.step == self.settings.steps:
            self._write_samples()
        self.num_logged += 1
        for alert in self.watch.see(entry):
            if self.top is not None:  # of this process alone: the others see the same alert, and need not be asked
                alert = alert.blaming(ledger.samples(last_step=True), self.top.name)
            self.log.alert(alert)
            self.progress.say(f"headwise: alert: {alert}")
        self._warn(ledger)

    def _write_samples(self) -> None:
        """Write the samples that make each term, of all processes together, on the first."""
        if self.top is not None:
            samples = self.ledger.samples(across_ranks=self.ranks.count > 1)
            if self.ranks.rank == 0:
                self.top.write(self.step, samples)

    def _warn(self, ledger: Ledger) -> None:
        """Name the terms whose gradient was not finite since the last log line, on whatever process that happened."""
        found = [
            f"step {self.first + books.step + 1}: {_not_finite(name, term, self.ranks.rank)}"
            for books in ledger.history()
            for name, term in books.items()
            if self.first + books.step >= self.logged and not term.finite
        ]
        self.logged = self.step
        for text in (text for texts in self.ranks.gather([found]) for text in texts):
            self.progress.say(f"headwise: warning: {text}; on_nonfinite is {self.settings.on_nonfinite!r}.")

    def _evaluate(self) -> None:
        """Evaluate, with samples at the last step, outside the measured pace."""
        if self.task.evaluate is None:
            return
        samples = self.folder / "samples" if self.step == self.settings.steps else None
        with self.trained.evaluated() as network:
            self.scores = self.task.evaluate(network, samples, self.ranks)
        self.log.evaluation(self.step, self.scores)
        self.progress.say(f"step {self.step} held out: {_summary(self.scores)}")
        self.clock.skip()

    def _save(self) -> None:
        """Write a checkpoint on the first process, after the logs that it vouches for; all wait for it."""
        self.log.sync()
        keep = self.ranks.rank == 0
        state = {
            "run": self.run,
            "recipe": self.task.recipe,
            "preset": self.task.preset,
            "arguments": dict(self.task.arguments),
            **self.trained.state_dict(keep=keep),
            "books": self.ledger.state_dict(),
            "seconds": self.clock.seconds,
            "scores": dict(self.scores),
        }
        place, most = self.folder / "checkpoints", self.settings.keep_checkpoints
        self.ranks.on_first(lambda: save_checkpoint(place, self.step, state, keep=most))
        if keep:
            note_saved(self.folder, self.step)
        self.saved = self.step

    def _restore(self, saved: Mapping[str, Any]) -> None:
        try:
            self.trained.load_state_dict(saved)
            self.books = saved["books"]
            self.clock, self.scores = Stopwatch(saved["seconds"]), saved["scores"]
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"{self.folder}: its checkpoint of step {saved['step']} does not fit what is to be trained ({reason}). "
                "Resume with the code that began the run, or start a new one."
            ) from error
        self.step = self.saved = saved["step"]

    def _say_how_to_resume(self, number: int) -> None:
        name = signal.Signals(number).name
        self.progress.say(
            f"Stopped by {name} after step {self.step} of {self.settings.steps}; the checkpoint is written. "
            f"Continue with: headwise train {self.task.recipe} --out {self.folder} --resume "
            "(a call in Python: the same with resume=True)"
        )


_SAMPLES_EVERY = 10
"""Log lines from one writing of samples to the next."""

_ERROR = 2**16
"""Above the numbers of all signals: a process cannot load its batches."""


def _summary(scores: Mapping[str, Any]) -> str:
    """The measures in a line, without those that are tables of their own (a row per class)."""
    lines = []
    for name, measure in scores.items():
        numbers = measure.items() if isinstance(measure, Mapping) else ()
        told = " ".join(f"{key} {number:.3f}" for key, number in numbers if isinstance(number, int | float))
        lines += [f"{name} {told}"] if told else []
    return ", ".join(lines)


def _not_finite(name: str, term: TermBooks, process: int) -> str:
    """What of a term is not finite, where."""
    paths = [path for path, output in term.outputs.items() if not output.finite]
    what, at = ("gradient", f" (output {', '.join(paths)})") if paths else ("value", "")
    return f"the {what} of term {name!r} is not finite on process {process}{at}"
