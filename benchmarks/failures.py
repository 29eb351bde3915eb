"""Runs that fail in ten ways, alone and as two processes under torchrun: each must end, within seconds, with one line.

    python -m benchmarks.failures --runs 100 --write

A run is `headwise train weighted_unet` with two loading processes. After some forward passes something is done to it;
then the clock runs until the command, or torchrun, has ended. Of a run that does not come so far, or does not end in
time, all processes write where they stand, which is printed, before they are killed.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

RESULT = Path(__file__).parent / "results" / "failures.md"
LIMIT = 10.0
PATIENCE = 240.0
"""Seconds until a run counts as one that never begins, or never ends."""

SCRIPT = r"""
import faulthandler, multiprocessing, os, pathlib, resource, signal, sys

faulthandler.register(signal.SIGUSR1)  # of the loading processes too, which are forked
pathlib.Path(f"{sys.argv[3]}.{os.getpid()}").touch()
import torch

way, who, folder, after = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
ERRORS = {
    "out of memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "an error of the device": RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED\nsecond line"),
    "an unreadable file": OSError(5, "Input/output error", "weights.bin"),
    "a bug": TypeError("unsupported operand type(s)"),
}
calls, forward, share = 0, torch.nn.Conv2d.forward, torch.Tensor.share_memory_


def full(tensor):
    global calls
    calls += 1
    if calls > 20:
        os.write(1, b"failing now\n")
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")
    return share(tensor)


def failing(self, images):
    global calls
    calls += 1
    if calls == after and int(os.environ.get("RANK", "0")) == who:
        os.write(1, b"failing now\n")
        loaders = multiprocessing.active_children()
        if way == "a killed loading process":
            os.kill(loaders[0].pid, signal.SIGKILL)
        elif way == "a stopped loading process and an error":
            os.kill(loaders[0].pid, signal.SIGSTOP)
            raise RuntimeError("the step failed")
        elif way == "a full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        elif way == "a kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise ERRORS[way]
    return forward(self, images)


if way == "a full shared memory":
    torch.Tensor.share_memory_ = full
else:
    torch.nn.Conv2d.forward = failing
from headwise.cli import main

small = "crop_size=48 depth=2 width=4 num_pictures=12 num_held_out=3 num_workers=2 checkpoint_every=5 log_every=2"
sets = [word for each in small.split() for word in ("--set", each)]
sys.exit(main(["train", "weighted_unet", "--steps", "4000", "--batch-size", "4", "--out", folder, *sets]))
"""


@dataclass(frozen=True)
class Way:
    """How a run fails: what happens, to which process, and of how many."""

    what: str
    who: int = 0
    processes: int = 1

    def __str__(self) -> str:
        return self.what if self.processes == 1 else f"two processes: {self.what}, in process {self.who}"


WAYS = (
    Way("out of memory"),
    Way("an error of the device"),
    Way("a bug"),
    Way("a killed loading process"),
    Way("a stopped loading process and an error"),
    Way("a full disk"),
    Way("a full shared memory"),
    Way("out of memory", 1, 2),
    Way("a kill", 0, 2),
    Way("an unreadable file", 0, 2),
)


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    way: Way
    began: bool
    code: int | None
    seconds: float
    lines: tuple[str, ...]
    traceback: bool

    @property
    def late(self) -> bool:
        return self.began and (self.code is None or self.seconds > LIMIT)

    @property
    def wrong(self) -> bool:
        told = 1 <= len(self.lines) <= self.way.processes
        own_traceback = self.traceback and self.way.processes == 1  # torchrun shows one of its own
        return self.began and (self.code in (None, 0) or not told or own_traceback)

    @property
    def bad(self) -> bool:
        return not self.began or self.late or self.wrong

    def __str__(self) -> str:
        when = f"after {self.seconds:.1f} s" if self.began else "before anything was done to it"
        return f"{self.way}: code {self.code} {when}, {self.lines}, traceback: {self.traceback}"


class Failing:
    """A run to which something is done, in a folder of its own."""

    def __init__(self, way: Way, after: int, folder: Path) -> None:
        self.folder = folder
        (folder / "script.py").write_text(SCRIPT)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        words = [str(folder / "script.py"), way.what, str(way.who), str(folder / "run"), str(after)]
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *(launcher if way.processes == 2 else []), *words],
                stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    @property
    def began(self) -> bool:
        return b"failing now" in (self.folder / "out").read_bytes()

    @property
    def said(self) -> str:
        return (self.folder / "err").read_text(errors="replace")

    def wait(self, until: Callable[[], bool]) -> float:
        """Wait for something, or the end, or until patience ends; the seconds that it took."""
        since = time.monotonic()
        while self.process.poll() is None and not until() and time.monotonic() - since < PATIENCE:
            time.sleep(0.02)
        return time.monotonic() - since

    def end(self) -> str:
        """Kill what is left, which torchrun started in sessions of its own; where it stood."""
        before = len(self.said)
        named = [int(path.suffix[1:]) for path in self.folder.glob("run.*")]
        training = [each for pid in named for each in (pid, *_children(pid)) if self._is_ours(each)]
        if training and self.process.poll() is None:
            for pid in training:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR1)
            time.sleep(2)
        for pid in (self.process.pid, *training):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        return self.said[before:]

    def _is_ours(self, pid: int) -> bool:
        """Whether a process is of this run: numbers are given anew."""
        with suppress(OSError):
            return str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def fail(way: Way, after: int) -> Ended:
    """Start a run, wait until it fails, and measure until it has ended."""
    with tempfile.TemporaryDirectory() as place:
        run = Failing(way, after, Path(place))
        run.wait(lambda: run.began)
        seconds = run.wait(lambda: False) if run.began else 0.0
        began, code, said = run.began, run.process.poll(), run.said
        stood = run.end()
    lines = tuple(line for line in said.splitlines() if line.startswith("headwise: error:"))
    ended = Ended(way, began, code, seconds, lines, "Traceback" in said)
    if ended.bad:
        print(f"{ended}\n{stood or said[-2000:]}", flush=True)
    return ended


def report(ended: list[Ended], arguments: argparse.Namespace, load: float) -> str:
    rows = []
    for way in WAYS:
        own = [each for each in ended if each.way == way]
        if own:
            numbers = [sum(getattr(each, kind) for each in own) for kind in ("late", "wrong")]
            never, took = sum(not each.began for each in own), sorted(each.seconds for each in own if each.began)
            median, longest = (f"{took[len(took) // 2]:.1f}", f"{took[-1]:.1f}") if took else ("", "")
            example = next((line for each in own for line in each.lines), "nothing").replace("|", "\\|")
            cells = [way, len(own), median, longest, *numbers, never, example[:150]]
            rows.append(f"| {' | '.join(map(str, cells))} |")
    return (
        "# Runs that fail\n\n"
        f"`python -m benchmarks.failures --runs {arguments.runs} --seed {arguments.seed} --at-once {arguments.at_once} "
        f"{f'--only {arguments.only!r} ' if arguments.only else ''}--write`: "
        "seconds from the failure to the end of the command, or of torchrun.\n\n"
        f"| what happens | runs | median, s | longest, s | over {LIMIT:g} s | not one line and a code | "
        "never came so far | said |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n\n"
        f"{platform.machine()}, {os.cpu_count()} CPU cores, shared with other work (load up to {load:.1f}); "
        f"Python {platform.python_version()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}.\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--only", default="", help="ways whose description holds this")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    ways = [way for way in WAYS if arguments.only in str(way)]
    jobs = [(ways[number % len(ways)], draw.randrange(8, 120)) for number in range(arguments.runs)]
    ended, load = [], 0.0
    with ThreadPoolExecutor(arguments.at_once) as pool:
        for each in pool.map(lambda job: fail(*job), jobs):
            ended.append(each)
            load = max(load, os.getloadavg()[0])
    text = report(ended, arguments, load)
    print(text)
    if arguments.write:
        RESULT.write_text(text)
    return int(any(each.bad for each in ended))


if __name__ == "__main__":
    sys.exit(main())
