"""Tables of measured lines, and the Markdown file that holds them."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.gpu.bench import Bench, Measured
from benchmarks.measure import machine, markdown

ROOT = Path(__file__).parents[2]
COLUMNS = ("wall ms", "device ms", "launches", "syncs", "peak MiB")


@dataclass
class Table:
    """Lines of one question; `against` names the way that the ratios are made to."""

    title: str
    against: str
    note: str = ""
    extra: tuple[str, ...] = ()
    rows: list[list[str]] = field(default_factory=list)

    @property
    def columns(self) -> tuple[str, ...]:
        """The headings."""
        return ("case", "way", f"time / {self.against}", *self.extra, *COLUMNS, "remark")

    def add(
        self, case: str, measured: Mapping[str, Measured], extra: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """One line a way; what could not be measured says why."""
        base = measured.get(self.against)
        for name, each in measured.items():
            ratio = each.over(base) if base is not None else None
            more = (extra or {}).get(name, {})
            cells = [more.get(column, "") for column in self.extra]
            self.rows.append([case, name, _figure(ratio, ".3f"), *cells, *_cells(each), each.remark])


class Kernels:
    """Where the device's time goes, by way: its longest kernels."""

    title = "the longest kernels of what is compiled"

    def __init__(self) -> None:
        self.note = ""
        self.rows: list[list[str]] = []
        self.columns = ("case", "way", "kernels, ms")

    def add(self, case: str, measured: Mapping[str, Measured]) -> None:
        """One line a way that was looked at."""
        for name, each in measured.items():
            if each.kernels and name != "authors":
                self.rows.append([case, name, ", ".join(f"{kernel[:90]} {ms:.3f}" for kernel, ms in each.kernels)])


def _cells(each: Measured) -> list[str]:
    return [
        _figure(each.wall_ms, ".3f"),
        _figure(each.device_ms, ".3f"),
        _figure(each.launches, "d"),
        _figure(each.syncs, "d"),
        _figure(each.peak, ".1f"),
    ]


def _figure(value: float | int | None, form: str) -> str:
    return "" if value is None else format(value, form)


class Report:
    """Prints each table when it is there, and rewrites the file, so that a run that is cut off loses nothing."""

    def __init__(self, bench: Bench, command: str, out: Path | None) -> None:
        self._out, self._since = out, time.perf_counter()
        title = "# Figures of a GPU" if bench.device.type == "cuda" else "# Figures of the CPU, small"
        self._parts: dict[str, list[str]] = {"": []}
        self._say("", title, _head(bench, command))

    def say(self, sentence: str) -> None:
        """Something about the whole run, where there is something to say."""
        if sentence:
            self._say("", sentence)

    def open(self, part: str, title: str) -> None:
        """A part begins."""
        self._parts[part], self._since = [], time.perf_counter()
        self._say(part, f"## ({part}) {title}")

    def add(self, part: str, table: Table | Kernels) -> None:
        """A finished table of a part."""
        if not table.rows:
            return
        note = [table.note] if table.note else []
        seconds, self._since = time.perf_counter() - self._since, time.perf_counter()
        self._say(part, f"### {table.title}", *note, markdown(table.columns, table.rows), f"In {seconds:.0f} s.")

    def close(self, part: str, seconds: float, failure: str) -> None:
        """The end of a part, and what broke it off."""
        broken = [f"What is missing was not measured: {failure}."] if failure else []
        self._say(part, *broken, f"Part ({part}) took {seconds:.0f} s.")

    def _say(self, part: str, *texts: str) -> None:
        self._parts[part] += texts
        print("\n\n".join(texts) + "\n", flush=True)
        if self._out is not None:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            lines = [text for name in sorted(self._parts) for text in self._parts[name]]
            self._out.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def _head(bench: Bench, command: str) -> str:
    names = ("torch", "torchvision", "triton", "torchjd", "numpy")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    lines = [
        f"`{command}` at {_commit()}",
        f"{_card(bench)}; {machine()}.",
        f"Versions: {versions}; CUDA {torch.version.cuda or 'none'}, cuDNN {torch.backends.cudnn.version() or 'none'}.",
        f"A copy on the device moves {bench.bandwidth() / 1e9:.0f} GB/s, bytes read and written both counted. "
        "Ways take turns; a ratio is the median of the ratios of neighboring runs, below 1 is faster. `wall` is the "
        "median time of a call with the host's part in it, `device` the sum of its kernels' times, `launches` their "
        "number (operators that make no view, on the CPU), `syncs` how often the host waited, `peak` the memory above "
        "what was held before. An empty cell: not measurable here, or not asked.",
    ]
    return "\n\n".join(lines)


def _card(bench: Bench) -> str:
    if bench.device.type != "cuda":
        return f"{platform.machine()}, no GPU used"
    properties = torch.cuda.get_device_properties(bench.device)
    memory = f"{properties.total_memory / 2**30:.0f} GiB, {properties.multi_processor_count} multiprocessors"
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return f"{properties.name}, {memory}, driver {driver}"


def _commit() -> str:
    given = os.environ.get("HEADWISE_COMMIT")
    return given or _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return f"unknown (no {command[0]})"
    return done.stdout.strip() or f"unknown ({command[0]} failed)"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
