"""Ctrl-C, SIGTERM, a closed terminal and lateness as requests that the loop answers between two steps or in a wait."""

from __future__ import annotations

import atexit
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from types import FrameType
from typing import Any

ONE_REQUEST = 5.0
"""Seconds in which further signals are the same request: launchers repeat what a terminal or Slurm sent to all."""

_LOOK = 0.2
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stop(BaseException):
    """Breaks off a wait for batches: a signal came, and the run ends with what it has."""


class Interrupts:
    """While open, SIGINT, SIGTERM and SIGHUP set `received` instead of ending the process.

    A signal that comes `ONE_REQUEST` seconds after the first acts as it did before, so that a hanging step can still
    be broken off; where it cannot, because the main thread hangs in a transfer, the process ends. Forked processes get
    back what was there before. Outside the main thread, where Python does not allow handlers, nothing is changed.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.since = 0.0
        self._previous: dict[int, Any] = {}
        self._previous_wakeup = -1
        self._wait: tuple[float, str] | None = None  # until when what may be broken off is to be there
        self._late: str | None = None
        self._answered = 0.0
        self._closed = threading.Event()
        self._heard, self._hearing = socket.socketpair()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._hearing.setblocking(False)
            self._previous_wakeup = signal.set_wakeup_fd(self._hearing.fileno(), warn_on_full_buffer=False)
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks for
                    self._previous[number] = signal.signal(number, self._note)
            _open.add(self)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self.forget()
        self._hearing.close()

    def forget(self) -> None:
        """Give the signals back to whoever had them before."""
        if self._previous:
            signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}
        _open.discard(self)

    @contextmanager
    def breaking_off(self, seconds: float, what: str) -> Iterator[None]:
        """Let a signal break off what is done inside, and let it take no longer than it may.

        Args:
            seconds: how long it may take.
            what: it is, for the error.

        Yields:
            Nothing.

        Raises:
            Stop: a signal came, inside or before.
            TimeoutError: it took longer.
        """
        self._wait = (time.monotonic() + seconds, f"{what} took longer than {seconds:g} s (patience)")
        try:
            if self.received is not None:
                raise Stop
            yield
        finally:
            self._wait = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._answered = time.monotonic()
        late, self._late = self._late, None
        if late is not None:
            self._break_off(TimeoutError(f"{late}. Look for what hangs there."))
        elif self.received is None:
            self.received, self.since = number, time.monotonic()
            self._break_off(Stop())
        elif time.monotonic() - self.since > ONE_REQUEST:
            signal.signal(number, self._previous[number] or signal.SIG_DFL)
            signal.raise_signal(number)

    def _break_off(self, error: BaseException) -> None:
        if self._wait is not None:
            self._wait = None
            raise error

    def _watch(self) -> None:
        """See signals and lateness also while the main thread cannot; a thread of its own."""
        main, first = threading.main_thread().ident or 0, math.inf
        self._heard.settimeout(_LOOK)
        while not self._closed.is_set():
            wait, now = self._wait, time.monotonic()
            if wait is not None and now > wait[0]:
                self._late = wait[1]
                signal.pthread_kill(main, signal.SIGTERM)
                self._end_unless_answered(now, 1, wait[1])
            with suppress(TimeoutError):
                numbers, now = set(self._heard.recv(64)).intersection(_SIGNALS), time.monotonic()
                first = min(first, now) if numbers else first
                if numbers and now - first > ONE_REQUEST:
                    self._end_unless_answered(now, 128 + min(numbers), "stopped by a signal")
        self._heard.close()

    def _end_unless_answered(self, since: float, code: int, why: str) -> None:
        """Wait for the main thread to see a signal; it may have been a little faster than this one."""
        while time.monotonic() - since < ONE_REQUEST:
            if self._answered > since - _LOOK or self._closed.wait(_LOOK):
                return
        sys.stderr.write(f"headwise: error: {why}, and the main thread hangs. Continue with --resume.\n")
        sys.stderr.flush()
        os._exit(code)


_open: weakref.WeakSet[Interrupts] = weakref.WeakSet()
_held = threading.local()


def _hold_before_a_fork() -> None:
    """Python forgets, in a new process, what came before its hooks; a signal that is held waits for them."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS) if _open else None


def _release_after_a_fork() -> None:
    if getattr(_held, "mask", None) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)
        _held.mask = None


def _forget_in_a_fork() -> None:
    for interrupts in list(_open):
        interrupts.forget()
    _release_after_a_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_hold_before_a_fork, after_in_parent=_release_after_a_fork, after_in_child=_forget_in_a_fork
    )


@lru_cache(maxsize=1)
def end_daemons_at_exit() -> None:
    """Let no loading process keep this one from its end.

    Multiprocessing asks daemonic processes to end when Python does, and then waits for each, however long: for ever,
    where one is stopped or hangs in a read.
    """
    atexit.register(_end_daemons)


def _end_daemons() -> None:
    children = [child for child in multiprocessing.active_children() if child.daemon]
    if children:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error for each that is killed
    for child in children:
        child.terminate()
    until = time.monotonic() + _LAST_WAIT
    for child in children:
        child.join(max(until - time.monotonic(), 0))
        if child.is_alive():
            child.kill()


def wake_daemons() -> None:
    """Let loading processes that were stopped go on, so that they hear when they are told to end."""
    for child in multiprocessing.active_children():
        if child.daemon and child.pid is not None:
            os.kill(child.pid, signal.SIGCONT)


_LAST_WAIT = 2.0
