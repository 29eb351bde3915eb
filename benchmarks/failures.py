"""Runs that fail in ten ways, alone and as two processes under torchrun: each must end, within seconds, with one line.

    python -m benchmarks.failures --runs 100 --write

A run is `headwise train weighted_unet` with two loading processes. After some forward passes something is done to it;
then the clock runs until the command, or torchrun, has ended.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

RESULT = Path(__file__).parent / "results" / "failures.md"
LIMIT = 10.0

SCRIPT = r"""
import multiprocessing, os, resource, signal, sys
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
    code: int | None
    seconds: float
    lines: tuple[str, ...]
    traceback: bool

    @property
    def good(self) -> bool:
        told = 1 <= len(self.lines) <= self.way.processes
        own_traceback = self.traceback and self.way.processes == 1  # torchrun shows one of its own
        return self.code not in (None, 0) and told and not own_traceback


def fail(way: Way, after: int) -> Ended:
    """Start a run, wait until it fails, and measure until it has ended."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "script.py").write_text(SCRIPT)
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend",
                    "c10d", "--rdzv-endpoint", "localhost:0"] if way.processes == 2 else []  # fmt: skip
        words = [
            sys.executable,
            *launcher,
            str(folder / "script.py"),
            way.what,
            str(way.who),
            str(folder / "run"),
            str(after),
        ]
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = subprocess.Popen(
                words, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        began = seen = time.monotonic()
        while process.poll() is None and time.monotonic() - seen < 240:
            if b"failing now" not in (folder / "out").read_bytes():
                seen = time.monotonic()
                if seen - began > 400:
                    break
            time.sleep(0.02)
        seconds, code = time.monotonic() - seen, process.poll()
        if code is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said = (folder / "err").read_text(errors="replace")
    lines = tuple(line for line in said.splitlines() if line.startswith("headwise: error:"))
    return Ended(way, code, seconds, lines, "Traceback" in said)


def report(ended: list[Ended], arguments: argparse.Namespace) -> str:
    rows = []
    for way in WAYS:
        own = [each for each in ended if each.way == way]
        if own:
            late, bad = sum(each.seconds > LIMIT for each in own), sum(not each.good for each in own)
            longest = max(each.seconds for each in own)
            example = next((line for each in own for line in each.lines), "nothing").replace("|", "\\|")
            rows.append(f"| {way} | {len(own)} | {longest:.1f} | {late} | {bad} | {example[:150]} |")
    return (
        "# Runs that fail\n\n"
        f"`python -m benchmarks.failures --runs {arguments.runs} --seed {arguments.seed} --at-once {arguments.at_once} "
        "--write`: seconds from the failure to the end of the command, or of torchrun.\n\n"
        f"| what happens | runs | longest, s | over {LIMIT:g} s | not one line and a code | said |\n"
        "| --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n\n"
        f"{platform.machine()}, {os.cpu_count()} CPU cores, shared with other work; "
        f"Python {platform.python_version()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}.\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    jobs = [(WAYS[number % len(WAYS)], draw.randrange(8, 120)) for number in range(arguments.runs)]
    with ThreadPoolExecutor(arguments.at_once) as pool:
        ended = []
        for each in pool.map(lambda job: fail(*job), jobs):
            ended.append(each)
            if not each.good or each.seconds > LIMIT:
                print(
                    f"{each.way}: code {each.code} after {each.seconds:.1f} s, {each.lines}, {each.traceback}",
                    flush=True,
                )
    text = report(ended, arguments)
    print(text)
    if arguments.write:
        RESULT.write_text(text)
    return int(any(not each.good or each.seconds > LIMIT for each in ended))


if __name__ == "__main__":
    sys.exit(main())
