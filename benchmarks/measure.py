"""What the benchmarks share: the machine in words, and peak memory."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


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


def _events(run: Callable[[], object]) -> list[int]:
    """Bytes allocated (or, negative, freed), in the order of time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda each: each.start_ns())]
