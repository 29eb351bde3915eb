"""Compiles the kernels of part (a) in several processes, so that the one that measures finds them in Inductor's cache.

python -m benchmarks.gpu.warm SHARE OF SIZE    # every OF-th of the criteria, from number SHARE on
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import CASES, Draw
from benchmarks.gpu.passes import alone, ours
from benchmarks.gpu.systems import SYSTEMS, differentiable

NUM_PROCESSES = 8
SECONDS = 45.0


def compile_ahead(bench: Bench) -> str:
    """Starts the processes and waits for them, but not for long.

    Returns:
        What was done, for the report; nothing where it does not pay.
    """
    if bench.device.type != "cuda":
        return ""
    start = time.monotonic()
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    commands = [
        [sys.executable, "-m", "benchmarks.gpu.warm", str(share), str(NUM_PROCESSES), bench.size]
        for share in range(NUM_PROCESSES)
    ]
    quiet = subprocess.DEVNULL
    workers = [subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) for command in commands]
    try:
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.0, start + SECONDS - time.monotonic()))
    finally:
        for worker in workers:
            worker.kill()
    done = sum(worker.returncode == 0 for worker in workers)
    return f"{done} of {NUM_PROCESSES} processes compiled ahead, in {time.monotonic() - start:.0f} s."


def runs(bench: Bench) -> Iterator[Callable[[], object]]:
    """One step of everything that part (a) compiles."""
    draw = Draw(bench)
    for make in SYSTEMS:
        for booked in (False, True):
            yield partial(_system, bench, make, booked)
    for make_case in CASES:
        yield lambda make_case=make_case: alone(make_case(draw), True)()


def _system(bench: Bench, make: Callable[[Bench], object], booked: bool) -> None:
    system = make(bench)
    ours(system, differentiable(system.outputs), True, booked)()


if __name__ == "__main__":
    share, of, size = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    for number, run in enumerate(runs(Bench(torch.device("cuda"), size))):
        if number % of == share:
            run()
            torch.cuda.empty_cache()
