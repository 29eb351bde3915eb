"""Compiles what parts (a) to (c) need in several processes, so that the one that measures finds it in the cache.

python -m benchmarks.gpu.warm SECONDS [PARTS]    # compile what these parts need, in turns, for so long (default: a,b,c)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu import graphs, steps
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import CASES, Case, Draw
from benchmarks.gpu.passes import alone, ours
from benchmarks.gpu.systems import SYSTEMS, System, differentiable


def compile_ahead(bench: Bench, parts: Collection[str], seconds: float) -> str:
    """Starts a process a core, but for two, and waits for them, but not for long.

    Returns:
        What was done, for the report; nothing where it does not pay.
    """
    works = _works(parts)
    if bench.device.type != "cuda" or not seconds or not works:
        return ""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = Path(folder) / "done"
        environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.gpu.warm", "--work", folder, bench.size, ",".join(parts)]
        quiet = subprocess.DEVNULL
        num = min(len(works), max(1, (os.cpu_count() or 4) - 2))
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
    return f"{len(finished)} of {len(works)} steps were compiled ahead, in {time.monotonic() - start:.0f} s."


def _works(parts: Collection[str]) -> list[Callable[[Bench], object]]:
    """One step of each that the parts compile, what takes longest first."""
    by_part: dict[str, list[Callable[[Bench], object]]] = {
        "c": [partial(_graph, case, way) for case in graphs.COMPILED for way in ("criterion", "ledger")],
        "b": [partial(_step, make) for make in (steps.corners, steps.heads)],
        "a": [
            *(partial(_system, make, booked) for make in SYSTEMS for booked in (False, True)),
            *(partial(_case, make) for make in CASES),
        ],
    }
    return [work for part, works in by_part.items() if part in parts for work in works]


def _graph(case: str, way: str, bench: Bench) -> None:
    graphs.cases(bench)[case][way]()()


def _step(make: Callable[[Bench], steps.Work], bench: Bench) -> None:
    steps.compiled(make, bench)()


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


def _work(folder: Path, size: str, parts: Collection[str]) -> None:
    works = _works(parts)
    while (number := _claimed(folder, len(works))) is not None:
        with contextlib.suppress(Exception):  # what cannot be compiled is told by the part that measures it
            works[number](Bench(torch.device("cuda"), size))  # type: ignore[arg-type]
            with (folder / "done").open("a", encoding="utf-8") as file:
                file.write(f"{number}\n")
        torch.cuda.empty_cache()


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        _work(Path(sys.argv[2]), sys.argv[3], sys.argv[4].split(","))
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        parts = sys.argv[2] if len(sys.argv) > 2 else "a,b,c"
        print(
            compile_ahead(Bench(device, "full"), parts.split(","), float(sys.argv[1])) or "nothing to compile: no GPU"
        )
