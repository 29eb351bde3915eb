"""The folder of a run, from any loop: three lines beside an optimizer that is not ours."""

from __future__ import annotations

import json
import os
import platform
import secrets
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsIndex, TypeGuard, runtime_checkable

import torch

from headwise.attribution.ledger.books import Books
from headwise.closing import Closing
from headwise.files import parse_json, write_atomically
from headwise.runs.alerts import Alert, AlertError, Watch
from headwise.runs.folder_lock import LOCK, sole_run
from headwise.runs.log import NoLog, RunLog, step_entry
from headwise.runs.reading import LOOP, Recording, read_run
from headwise.runs.samples import save_sample
from headwise.runs.samples.writing import next_index
from headwise.runs.scores import Rate, plain_rate, plain_scores, plain_settings, whole_step
from headwise.runs.top_samples import KeepsSamples, Ranking, Show, TopSamples
from headwise.whole import is_whole


@runtime_checkable
class Readable(Protocol):
    """What keeps books: a `Ledger`, or what looks like one."""

    def read(self) -> Books:
        """The books of the last step."""
        ...


class Run(Closing):
    """A run folder, which ``headwise report`` and all other readers of runs take.

    ::

        run = hw.Run("runs/mine", ledger)
        for step, batch in enumerate(loader, start=1):
            ...                                         # the loop as it was
            run.log(step)                               # writes every `every`-th; nothing in between

    It holds ``config.json``, ``log.jsonl`` (and ``evaluation.jsonl`` and ``samples/`` where they are given). Each line
    reaches the file at once: a killed process loses the last one at most, and a reader may follow. Where the ledger
    keeps samples, ``top_samples.json`` has those that make each term, as of the first and every tenth logged step, and
    of the end. While the process lives and the run is open, other processes are kept out of the folder; a later run of
    the same process that resumes in it closes this one.

    Args:
        folder: of the run; new, empty, or with `resume` one that this class wrote.
        ledger: whose books are logged; None where they are given to `log`.
        every: of so many steps, one is logged; the first too.
        alerts: what becomes of an alert (`headwise.runs.alerts`): "print" writes it to standard error, "raise" ends the
            run with an `AlertError` (its step is logged before), a function is called with it; None judges nothing.
            Each is also a line of ``alerts.jsonl``. They see the steps that are logged.
        config: what the run depends on, for the page and for comparisons: a dict, a dataclass or what `argparse` gives.
            What JSON has no word for is written as text.
        resume: continue after this step, and forget what was logged later; None for a new run.
        board: also write TensorBoard's event files.
        show: where the ledger keeps samples: what an id is (`Shown`: a name, and its picture as (H, W, 3) uint8), asked
            once for each that is shown; by default, ids that are paths of pictures are opened.

    Where torch's processes of one job each make one, the first writes, and the books are those of its samples.

    Raises:
        ValueError: the folder holds a run already (without `resume`), or one that is under way in another process, or
            something else; or a setting cannot be.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        ledger: Readable | None = None,
        *,
        every: int = 50,
        alerts: Literal["print", "raise"] | Callable[[Alert], object] | None = "print",
        config: Any = None,
        resume: int | None = None,
        board: bool = False,
        show: Show | None = None,
    ) -> None:
        _check_settings(folder, ledger, every, alerts, show)
        self.folder = Path(folder)
        self.every = every
        self._ledger = ledger
        self._react = alerts
        scheduled = [*getattr(ledger, "scheduled", ())]
        self._watch = Watch(scheduled)
        self._config: dict[str, Any] = {"arguments": plain_settings(config), "scheduled": scheduled}
        self._terms: tuple[str, ...] = ()
        self._samples = next_index(self.folder / "samples") if resume is not None else 0
        self._resumed = self._last = self._evaluated = 0 if resume is None else whole_step(resume, "runs.Run: resume")
        self._booked: tuple[Books, int] | None = None  # that were logged last, and as which step
        self._warned = False
        self._top = Ranking(ledger, TopSamples(self.folder, show)) if _ranks(ledger) else None
        self._log: RunLog | NoLog = NoLog()
        with ExitStack() as held:
            if _is_first():
                self._check(resume)
                _close_earlier(self.folder)
                held.enter_context(sole_run(self.folder, lambda text: sys.stderr.write(f"{text}\n")))
                self._open(resume)
                self._log = RunLog(self.folder, resume or 0, board=board)
            self._process = os.getpid()
            self._end = weakref.finalize(self, _end, self._process, self._log, self._top, held.pop_all())
        _open_runs[self.folder.resolve()] = self
        self._begun = time.monotonic()

    def _check(self, resume: int | None) -> None:
        held = {each.name for each in self.folder.iterdir()} - {LOCK} if self.folder.is_dir() else set()
        if held and "config.json" not in held:
            raise ValueError(f"{self.folder}: it holds {min(held)!r}, and no run of Headwise. Give another folder.")
        if held and resume is None:
            raise ValueError(f"{self.folder}: a run is there already. Give another folder, or resume=STEP.")

    def _open(self, resume: int | None) -> None:
        self._check(resume)  # again, for another process may have begun since
        path = self.folder / "config.json"
        if path.exists():
            known = _known_config(path)
            self._config = {
                **known,
                **({"arguments": self._config["arguments"]} if self._config["arguments"] else {}),
                "scheduled": list(dict.fromkeys([*known.get("scheduled", ()), *self._config["scheduled"]])),
            }
            self._terms = tuple(known.get("terms", ()))
        else:
            if resume:
                warnings.warn(
                    f"{self.folder}: there is no run to go on with; one begins after step {resume}", stacklevel=4
                )
            given = self._config
            self._config = {
                "run": secrets.token_hex(8),
                "loop": LOOP,
                "recipe": self.folder.name,
                "preset": "",
                "card": "",
            }
            self._config |= {**given, "versions": versions("headwise", "torch")}
        self._write_config()

    def _write_config(self) -> None:
        content = json.dumps({**self._config, "terms": list(self._terms)}, indent=2, default=str)
        write_atomically(self.folder / "config.json", content.encode() + b"\n")

    @property
    def resumed(self) -> int:
        """The step after which it goes on; 0 for a new run."""
        return self._resumed

    def log(self, step: SupportsIndex, books: Books | None = None, *, learning_rate: Rate = None) -> None:
        """Log a step if it is the first or an `every`-th, and the ledger has booked anything since the last.

        Args:
            step: optimizer steps done, from 1.
            books: of the step; by default the ledger's, which are read, and so waited for, only if they are logged.
            learning_rate: of the step; of several groups' (`scheduler.get_last_lr()`) the first.

        Raises:
            ValueError: there are neither books nor a ledger, or the step is no whole number or one before the last.
            AlertError: something goes wrong, and `alerts` is "raise".
            OSError: the log cannot be written.
        """
        step = whole_step(step, "runs.Run.log")
        if step == 1 or step % self.every == 0:
            self.write(step, books, learning_rate=learning_rate)

    def write(self, step: SupportsIndex, books: Books | None = None, *, learning_rate: Rate = None) -> None:
        """Log a step, whatever `every` says: for loops that know when it is time.

        Args:
            step: optimizer steps done, from 1.
            books: of the step; by default the ledger's.
            learning_rate: of the step.

        Raises:
            ValueError: as `log`.
            AlertError: something goes wrong, and `alerts` is "raise".
            OSError: the log cannot be written.
        """
        step = whole_step(step, "runs.Run.write")
        rate, log = plain_rate(learning_rate, "runs.Run.log"), self._open_log()
        self._last = _not_before(self._last, step, self.resumed)
        if isinstance(log, NoLog):
            return
        if books is None:
            if self._ledger is None:
                raise ValueError("runs.Run.log: there is no ledger to read. Give Run a ledger, or log the books.")
            books = self._ledger.read()
            if self._is_old(books, step):
                return
        if not isinstance(books, Books):
            raise ValueError(
                f"runs.Run.log: books are what ledger.read() gives, found {type(books).__name__}. Give Run the ledger."
            )
        if books.names != self._terms:
            self._terms = tuple(dict.fromkeys([*self._terms, *books.names]))
            self._write_config()
        seconds = time.monotonic() - self._begun
        entry = step_entry(step, books, time=seconds, learning_rate=rate)
        log.step(entry)
        self._booked = books, step
        if self._top is not None:
            self._top.logged(step)
        for alert in self._watch.see(entry) if self._react is not None else ():
            self._tell(alert if self._top is None else self._top.blamed(alert))

    def _is_old(self, books: Books, step: int) -> bool:
        """Whether the ledger has what was logged already under another number, and so would be wrong under this one."""
        if self._booked is None:
            return False
        before, logged_as = self._booked
        if step == logged_as or books.step != before.step or books.terms != before.terms:
            return False
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"runs.Run: step {step} is not logged, nor are others like it: the ledger has booked nothing since "
                f"step {logged_as}, whose books would stand twice. Log after the backward pass, and count optimizer "
                "steps.",
                RuntimeWarning,
                stacklevel=4,
            )
        return True

    def _tell(self, alert: Alert) -> None:
        self._log.alert(alert)
        if self._react == "raise":
            raise AlertError(alert)
        if callable(self._react):
            self._react(alert)
        else:
            sys.stderr.write(f"headwise: alert: {alert}\n")

    def evaluate(self, step: SupportsIndex, scores: Mapping[str, Any]) -> None:
        """Log an evaluation. Several at one step, of other measures, are one.

        Args:
            step: optimizer steps done.
            scores: measures by name, each with its numbers by name: ``{"coco": {"ap": 0.41, "ap50": 0.6}}``. Numbers
                that stand alone, ``{"accuracy": 0.9}``, are those of a measure "scores".

        Raises:
            ValueError: the step is no whole number or one before the last that was evaluated, or a score no number.
            OSError: the log cannot be written.
        """
        step = whole_step(step, "runs.Run.evaluate")
        log, plain = self._open_log(), plain_scores(scores)
        self._evaluated = _not_before(self._evaluated, step, self.resumed)
        log.evaluation(step, plain)

    def show(self, image: Any, **parts: Any) -> Path:
        """Save a picture for the page.

        Args:
            image: (H, W, 3) uint8.
            **parts: what was annotated and found on it, its maps, ...: those of `runs.samples.save_sample`.

        Returns:
            The file; the first process writes it.
        """
        self._samples += 1
        if isinstance(self._open_log(), NoLog):
            return self.folder / "samples" / f"{self._samples - 1:03d}.npz"
        return save_sample(self.folder / "samples", self._samples - 1, image, **parts)

    def _open_log(self) -> RunLog | NoLog:
        if not self._end.alive:
            raise ValueError(
                f"{self.folder}: this run is closed. Log before close(), inside of its `with`, and before another Run "
                "goes on in its folder."
            )
        if not _is_first():  # asked anew: processes may have been forked, or joined, since
            return NoLog()
        if os.getpid() != self._process:
            raise ValueError(
                f"{self.folder}: this run is that of process {self._process}, and process {os.getpid()} was forked "
                "from it: both would write into one log. Log there, or make the run in the process that logs."
            )
        return self._log

    def recorded(self) -> Recording:
        """What has been logged so far: its terms, steps and scores; prints as a table in a notebook.

        Returns:
            The same that the page, the comparison and the alerts read.
        """
        return read_run(self.folder)

    def _repr_html_(self) -> str:
        return self.recorded()._repr_html_()

    def close(self) -> None:
        """Close the files; what was logged is there already. A run that is forgotten closes them itself."""
        self._end()


def _check_settings(folder: Any, ledger: Any, every: Any, alerts: Any, show: Any) -> None:
    if not isinstance(folder, str | os.PathLike):
        raise ValueError(
            f"runs.Run: the first argument is the folder of the run, found {type(folder).__name__}. Write "
            'hw.Run("runs/mine", ledger).'
        )
    if show is not None and not callable(show):
        raise ValueError(f"runs.Run: show is a function of an id that returns a Shown, found {show!r}.")
    if not is_whole(every, 1):
        raise ValueError(f"runs.Run: every is a whole number from 1, found {every!r}.")
    if ledger is not None and not callable(getattr(ledger, "read", None)):
        instead = "its `ledger`" if hasattr(ledger, "ledger") else "hw.Ledger(criterion)"
        raise ValueError(f"runs.Run: the second argument is a Ledger, found {type(ledger).__name__}. Give {instead}.")
    if not (alerts in ("print", "raise", None) or callable(alerts)):
        raise ValueError(f"runs.Run: alerts is 'print', 'raise', a function or None, found {alerts!r}.")


def _ranks(ledger: object) -> TypeGuard[KeepsSamples]:
    return _is_first() and bool(getattr(ledger, "keeps_samples", False))


def _not_before(last: int, step: int, resumed: int) -> int:
    if step < last:
        again = "" if last > resumed else " A run goes on from its checkpoint: give resume=STEP the step of that."
        raise ValueError(
            f"runs.Run: step {step} comes after step {last}, and would replace what was logged since. Count steps over "
            f"the whole run, not over an epoch: (epoch - 1) * len(loader) + step.{again}"
        )
    return step


def _end(process: int, log: RunLog | NoLog, top: Ranking | None, held: ExitStack) -> None:
    """What is left to do when a run is closed or forgotten; a process that was forked leaves it to the run's own."""
    if os.getpid() != process:
        return
    with held:
        try:
            if top is not None:
                top.write()
        finally:
            log.close()


_open_runs: weakref.WeakValueDictionary[Path, Run] = weakref.WeakValueDictionary()
"""By folder the run of this process that is open there: of two, one would write into files that the other replaced."""


def _close_earlier(folder: Path) -> None:
    earlier = _open_runs.get(folder.resolve())
    if earlier is not None:
        earlier.close()


def _known_config(path: Path) -> dict[str, Any]:
    """The configuration of a run that is resumed."""
    try:
        known = parse_json(path.read_bytes())
    except ValueError as error:  # also bytes that are no text
        raise ValueError(f"{path}: it cannot be read ({error}), so the run cannot be continued.") from None
    if not isinstance(known, dict) or known.get("loop") != LOOP:
        raise ValueError(f"{path}: not written by runs.Run, so it cannot be continued by it.")
    return known


def _is_first() -> bool:
    """Whether this is the process that writes, of those that share the work."""
    job = torch.distributed
    return not (job.is_available() and job.is_initialized() and job.get_rank() > 0)


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python and of packages, for the configuration of a run."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
