"""Times, launches, waits and memory of ways to do one thing, on a GPU or the CPU."""

from __future__ import annotations

import gc
import math
import signal
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import StoragePeak

Run = Callable[[], object]
Way = Callable[[], Run]  # builds what is run, so that a way that cannot be built costs its own line only
Size = Literal["full", "small", "smoke"]
ROUNDS: dict[Size, int] = {"full": 15, "small": 3, "smoke": 1}
VIEWS = {"alias", "as_strided", "detach", "expand", "lift_fresh", "permute", "reshape", "select", "slice", "split"} | {
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "_reshape_alias",
    "empty", "empty_like", "empty_strided", "new_empty",
}  # fmt: skip
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "bincount"}


class OverBudget(Exception):
    """The seconds of a part are over."""


class Missing(Exception):
    """A way needs what is not installed here; the text says what to install."""


def _short(error: Exception) -> str:
    return (" ".join(str(error).split()) or "no message").replace("|", "/")[:200]


@dataclass
class Measured:
    """What one way took; what could not be measured is None, and `remark` says why."""

    times: list[float] = field(default_factory=list)
    device_ms: float | None = None
    launches: int | None = None
    syncs: int | None = None
    peak: float | None = None
    kernels: list[tuple[str, float]] = field(default_factory=list)  # names and milliseconds, the longest first
    remark: str = ""

    @property
    def wall_ms(self) -> float | None:
        """The median."""
        return statistics.median(self.times) if self.times else None

    def over(self, other: Measured) -> float | None:
        """The median of the ratios of neighboring runs, to another way."""
        pairs = list(zip(self.times, other.times, strict=False))
        return statistics.median(a / b for a, b in pairs) if pairs else None


class Bench:
    """The device, the size of what is measured, and the clock of the part that runs."""

    def __init__(self, device: torch.device, size: Size, rounds: int | None = None) -> None:
        self.device, self.size = device, size
        self.rounds = rounds or ROUNDS[size]
        self.kinds: tuple[str, ...] = ("eager", "compiled")
        self._bandwidth: float | None = None
        self._deadline = math.inf
        self.failure = ""

    def pick(self, full: Any, small: Any, smoke: Any = None) -> Any:
        """A setting by size; `smoke` is as `small` if it is not given."""
        return {"full": full, "small": small, "smoke": small if smoke is None else smoke}[self.size]

    @property
    def compiles(self) -> bool:
        """Whether to compile: the smallest form does not."""
        return self.size != "smoke"

    @property
    def over(self) -> bool:
        """Whether the part's seconds are over."""
        return time.monotonic() > self._deadline

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """A part: at its end what runs is broken off, and every further line says so."""
        self._deadline = time.monotonic() + min(seconds, 120)
        previous = signal.signal(signal.SIGALRM, self._break_off)
        signal.setitimer(signal.ITIMER_REAL, min(seconds, 120))
        self.failure = ""
        try:
            yield
        except Exception as error:  # a part that breaks costs its own lines only
            self.failure = f"{type(error).__name__}: {_short(error)}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            self.clear()

    @staticmethod
    def _break_off(number: int, frame: object) -> None:
        raise OverBudget("the part's seconds are over")

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def clear(self) -> None:
        """Gives memory back between cases."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def bandwidth(self) -> float:
        """Bytes a second of a large copy, read and written; measured once."""
        if self._bandwidth is None:
            source = torch.empty(self.pick(2**28, 2**23, 2**20), device=self.device).normal_()
            target = torch.empty_like(source)
            copy = [self._time(lambda: target.copy_(source), 1) for _ in range(self.pick(20, 5))]
            self._bandwidth = 2e3 * source.nbytes / min(copy)
        return self._bandwidth

    def compare(self, ways: Mapping[str, Way], *, seconds: float = 5.0, deep: bool = True) -> dict[str, Measured]:
        """Builds and warms up each way, then times them in turns.

        Args:
            ways: What to compare.
            seconds: After which no further round begins, if there were five.
            deep: Look at launches, waits and memory too.

        Returns:
            By way.
        """
        found = {name: Measured() for name in ways}
        runs: dict[str, Run] = {}
        for name, way in ways.items():
            run = self._guard(found[name], lambda way=way: self._ready(way))
            if run is not None:
                runs[name] = run
        inner = {name: self._guard(found[name], lambda run=run: self._repeats(run)) for name, run in runs.items()}
        start = time.monotonic()
        for number in range(self.rounds):
            if number >= 5 and time.monotonic() - start > seconds:
                break
            order = list(runs) if number % 2 else list(reversed(runs))
            for name in order:
                if not found[name].remark:
                    self._guard(
                        found[name], lambda name=name: found[name].times.append(self._time(runs[name], inner[name]))
                    )
        for name, run in runs.items() if deep else ():
            for look in self._looks():
                self._guard(found[name], lambda look=look, name=name, run=run: look(found[name], run))
        return found

    def _guard(self, measured: Measured, work: Callable[[], Any]) -> Any:
        try:
            if self.over:
                raise OverBudget("the part's seconds are over")
            return work()
        except Exception as error:
            self.clear()
            kind = "" if isinstance(error, (OverBudget, Missing)) else f"{type(error).__name__}: "
            measured.remark = f"not measured: {kind}{_short(error)}"
            return None

    def _ready(self, way: Way) -> Run:
        run = way()
        for _ in range(self.pick(3, 2, 1)):
            run()
        self.synchronize()
        return run

    def _repeats(self, run: Run) -> int:
        """As many calls as take ten milliseconds, so that the clock's grain and one launch's delay do not count."""
        if self.size == "smoke":
            return 1
        return max(1, min(self.pick(50, 5), math.ceil(10 / max(self._time(run, 1), 1e-3))))

    def _time(self, run: Run, calls: int) -> float:
        """Milliseconds a call."""
        self.synchronize()
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(calls):
                run()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / calls
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        return 1e3 * (time.perf_counter() - begin) / calls

    def _looks(self) -> tuple[Callable[[Measured, Run], None], ...]:
        on_gpu = (self._look_at_memory, self._look_at_waits, self._look_at_launches)
        return on_gpu if self.device.type == "cuda" else (self._look_at_operators,)

    @staticmethod
    def _look_at_operators(measured: Measured, run: Run) -> None:
        """What the CPU can tell of a GPU: operators in place of kernels, those that would wait, live storages."""
        with Operators() as seen, StoragePeak() as held:
            run()
        measured.peak, measured.launches = held.peak / 2**20, seen.launches
        _note_waits(measured, seen.waits)

    def _look_at_memory(self, measured: Measured, run: Run) -> None:
        self.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        self.synchronize()
        measured.peak = (torch.cuda.max_memory_allocated() - before) / 2**20

    @staticmethod
    def _look_at_waits(measured: Measured, run: Run) -> None:
        places: Counter[str] = Counter()
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        for each in caught:
            if "synchroniz" in str(each.message):
                places[f"{Path(each.filename).name}:{each.lineno}"] += 1
        _note_waits(measured, places)

    def _look_at_launches(self, measured: Measured, run: Run) -> None:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
            run()
            self.synchronize()
        assert recorded.profiler is not None
        events = recorded.profiler.kineto_results.events()
        work = [each for each in events if each.device_type() == DeviceType.CUDA and not each.is_user_annotation()]
        if not work:
            raise RuntimeError("the profiler saw no kernel (CUPTI is not allowed here?)")
        measured.device_ms = sum(each.duration_ns() for each in work) / 1e6
        spent: Counter[str] = Counter()
        for each in work:
            spent[each.name()] += each.duration_ns()
        measured.kernels = [(name, nanoseconds / 1e6) for name, nanoseconds in spent.most_common(5)]
        measured.launches = sum(not each.name().startswith("Mem") for each in work)


def _note_waits(measured: Measured, places: Counter[str]) -> None:
    measured.syncs = sum(places.values())
    if places:
        measured.remark = "waits: " + ", ".join(f"{place} x{count}" for place, count in places.most_common(3))


class Operators(TorchDispatchMode):
    """Counts operators that would be a launch, and those that would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.launches += name not in VIEWS
        indices = args[1] if name.startswith(("index", "_unsafe_index")) and isinstance(args[1], (list, tuple)) else ()
        if name in WAITS or any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in indices):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))
