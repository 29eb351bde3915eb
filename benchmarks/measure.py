"""What the benchmarks share: options, interleaved timing, results files, the machine in words, and peak memory."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Options:
    """How a benchmark of several ways is run."""

    repeats: int
    threads: int
    clock: str
    beside: int
    write: Path | None

    @classmethod
    def read(cls, description: str | None, repeats: int, threads: int = 2) -> Options:
        """From the command line; sets torch's threads."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--repeats", type=int, default=repeats)
        parser.add_argument("--threads", type=int, default=threads)
        parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
        parser.add_argument("--beside", type=int, default=0, help="this many busy processes share the cores")
        parser.add_argument("--write", type=Path, help="also write the report to this Markdown file")
        options = cls(**vars(parser.parse_args()))
        torch.set_num_threads(options.threads)
        return options

    def seconds(self, ways: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
        """Of each way, one after the other, `repeats` times over."""
        clock = time.process_time if self.clock == "cpu" else time.perf_counter
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        with busy_processes(self.beside):
            for _ in range(self.repeats):
                for name, run in ways.items():
                    start = clock()
                    run()
                    seconds[name].append(clock() - start)
        return seconds

    def publish(self, title: str, text: str) -> None:
        """Print the report with its command and machine, and write it where asked to."""
        script = f"{Path(sys.argv[0]).parent.name}/{Path(sys.argv[0]).name}"
        command = f"`python {script} --repeats {self.repeats} --threads {self.threads} --clock {self.clock}`"
        if self.beside:
            policy = os.environ.get("OMP_WAIT_POLICY", "not set")
            command = f"{command[:-1]} --beside {self.beside}`, OMP_WAIT_POLICY {policy}"
        publish(f"# {title}\n\n{command}\n\n{machine()}\n\n{text}\n", self.write)


@contextmanager
def busy_processes(num: int) -> Iterator[None]:
    """Processes that do nothing but compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def publish(report: str, write: Path | None) -> None:
    """Print a report, and write it where asked to."""
    print(report)
    if write:
        write.write_text(report, encoding="utf-8")


def times_faster(slow: list[float], fast: list[float]) -> float:
    """The median of the ratios of neighboring runs."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def milliseconds(taken: list[float]) -> tuple[str, str]:
    """The median and the least."""
    return f"{1e3 * statistics.median(taken):.1f}", f"{1e3 * min(taken):.1f}"


def markdown(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table."""
    heading = list(columns)
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def machine() -> str:
    """Processor, threads and versions, for the head of a results file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    processor = ", ".join(sorted(names)) or platform.processor() or platform.machine()
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def peak_memory(run: Callable[[], object]) -> int:
    """Peak of bytes allocated by torch on the CPU during a call, above what was allocated before it.

    The allocator's own events are added up in the order of time, so compiled code is counted as well. The second of two
    calls is measured: the first also makes what stays (gradients, caches of the profiler).
    """
    _events(run)
    live = peak = 0
    for nbytes in _events(run):
        live += nbytes
        peak = max(peak, live)
    return peak


class StoragePeak(TorchDispatchMode):
    """Adds up the storages that operators make and that are still alive; `peak` is the most at one time, in bytes.

    It works on fake tensors as well (`torch._subclasses.FakeTensorMode`), so that full sizes need no computing. What an
    operator allocates for itself inside is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        before = {id(each.untyped_storage()) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and id(each.untyped_storage()) not in before:
                self._add(each.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, nbytes = id(storage), storage.nbytes()
        if key in self._seen and self._seen[key]() is storage:
            return

        def free(_: Any) -> None:
            self.live -= nbytes

        self._seen[key] = weakref.ref(storage, free)
        self.live += nbytes
        self.peak = max(self.peak, self.live)


def _events(run: Callable[[], object]) -> list[int]:
    """Bytes allocated (or, negative, freed), in the order of time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda each: each.start_ns())]
