"""Ctrl-C and SIGTERM as a request that the loop answers between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

ONE_REQUEST = 5.0
"""Seconds in which further signals are the same request: launchers repeat what a terminal or Slurm sent to all."""


class Interrupts:
    """While open, SIGINT and SIGTERM set `received` instead of ending the process.

    A signal that comes `ONE_REQUEST` seconds after the first acts as it did before, so that a hanging step can still
    be broken off. Outside the main thread, where Python does not allow handlers, nothing is changed.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is None:
            self.received, self.since = number, time.monotonic()
        elif time.monotonic() - self.since > ONE_REQUEST:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
