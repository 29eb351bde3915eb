"""Compiles the kernels of part (a) in several processes, so that the one that measures finds them in Inductor's cache.

python -m benchmarks.gpu.warm SECONDS [SIZE]    # compile all, in turns, for so long
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import CASES, Case, Draw
from benchmarks.gpu.passes import alone, ours
from benchmarks.gpu.systems import SYSTEMS, System, differentiable


def compile_ahead(bench: Bench, seconds: float) -> str:
    """Starts a process a core, but for two, and waits for them, but not for long.

    Returns:
        What was done, for the report; nothing where it does not pay.
    """
    if bench.device.type != "cuda" or not seconds:
        return ""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = Path(folder) / "done"
        environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.gpu.warm", "--work", folder, bench.size]
        quiet = subprocess.DEVNULL
        num = min(len(_works()), max(1, (os.cpu_count() or 4) - 2))
        workers = [subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) for _ in range(num)]
        try:
            for worker in workers:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(max(0.0, start + seconds - time.monotonic()))
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        finished = done.read_text(encoding="utf-8").split() if done.exists() else []
    return f"{len(finished)} of {len(_works())} criteria compiled ahead, in {time.monotonic() - start:.0f} s."


def _works() -> list[Callable[[Bench], object]]:
    """One step of each that part (a) compiles, what takes longest first."""
    systems = [partial(_system, make, booked) for make in SYSTEMS for booked in (False, True)]
    return [*systems, *(partial(_case, make) for make in CASES)]


def _system(make: Callable[[Bench], System], booked: bool, bench: Bench) -> None:
    system = make(bench)
    ours(system, differentiable(system.outputs), True, booked)()


def _case(make: Callable[[Draw], Case], bench: Bench) -> None:
    alone(make(Draw(bench)), True)()


def _claimed(folder: Path, total: int) -> int | None:
    """The next number that no process has taken."""
    with (folder / "next").open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = len(file.read())
        file.write(".")
        file.flush()
    return number if number < total else None


def _work(folder: Path, size: str) -> None:
    works = _works()
    while (number := _claimed(folder, len(works))) is not None:
        works[number](Bench(torch.device("cuda"), size))  # type: ignore[arg-type]
        torch.cuda.empty_cache()
        with (folder / "done").open("a", encoding="utf-8") as file:
            file.write(f"{number}\n")


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        _work(Path(sys.argv[2]), sys.argv[3])
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        size = sys.argv[2] if len(sys.argv) > 2 else "full"
        print(compile_ahead(Bench(device, size), float(sys.argv[1])) or "nothing to compile: no GPU")  # type: ignore[arg-type]
