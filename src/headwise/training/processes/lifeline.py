"""A line from every process of a run to the first, by which all learn that one of them ended or stands, and why.

Torchrun ends the others too, but it sees exit codes alone, on its own machine: not a process that is stopped, not
which one was the first over several machines; and other launchers wait for ever. What torchrun shows at its end comes
from torch's own error file, which `ranks.naming_lost_ranks` writes.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

GRACE = 4.0
"""Seconds after the loss of a process until one that still waits for it ends itself."""

BEATS = 4
"""Signs of life that a process gives in the time that the others wait for one."""

_MEETING = 60.0


class Lost(NamedTuple):
    """A process that ended before the run did.

    Args:
        rank: of the process.
        reason: its error in a line; None where it could not tell, because it was killed.
        silent: seconds for which it has given no sign of life; 0 where it ended.
    """

    rank: int
    reason: str | None = None
    silent: float = 0.0

    def __str__(self) -> str:
        """A sentence without its end."""
        if self.silent:
            waited = f"for {self.silent:g} s (patience)"
            return f"process {self.rank} has given no sign of life {waited}: it is stopped, or its machine hangs"
        if self.reason is None:
            return f"process {self.rank} was killed, or its machine was lost"
        return f"process {self.rank} ended with an error ({self.reason.rstrip('.')})"


class Meeting(NamedTuple):
    """Where the first process waits for the others.

    Args:
        port: on its machine.
        token: what the others show, so that no stranger is taken for one of them.
    """

    port: int
    token: str


class Line(NamedTuple):
    """A connection, and what comes over it."""

    socket: socket.socket
    heard: BinaryIO

    def say(self, message: object) -> None:
        """Send; where the other end is gone already, its silence tells."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> list[Any] | None:
        """Wait for a message that is no sign of life; None if the other end is gone.

        Raises:
            TimeoutError: not even a sign of life came in time.
        """
        try:
            while (said := self.heard.readline(10_000)) == _ALIVE:
                pass
            return list(json.loads(said))
        except TimeoutError:
            raise
        except (OSError, ValueError, TypeError):
            return None

    def hang_up(self) -> None:
        """Close, and end whoever waits for a message."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Lifeline:
    """The open lines of one process: those from all others on the first, one to the first elsewhere.

    The system closes the lines of a process that ends, however it ends. A line that closes without a good-bye
    therefore tells of a loss, at once and without a mistake; the first process passes it on. A process that hangs
    in a transfer which the lost one will never answer, as those between GPUs do, ends itself after `GRACE` seconds.
    A process that is stopped closes nothing, but gives no signs of life either.

    Args:
        rank: of this process.
        lines: by rank of their other ends.
        patience: seconds without a sign of life after which a process counts as lost.
    """

    def __init__(self, rank: int, lines: dict[int, Line], patience: float) -> None:
        self._rank, self._lines, self._patience = rank, lines, patience
        self._lost: Lost | None = None
        self._known, self._closing, self._lock = threading.Event(), threading.Event(), threading.Lock()
        for other, line in lines.items():
            line.socket.settimeout(patience)
            threading.Thread(target=self._follow, args=(other, line), daemon=True).start()
        threading.Thread(target=self._live, daemon=True).start()

    def lost(self, seconds: float) -> Lost | None:
        """Return the process that was lost first.

        Args:
            seconds: how long to wait for the news.

        Returns:
            The process; None if none was lost.
        """
        self._known.wait(seconds)
        return self._lost

    def close(self, reason: str | None = None) -> None:
        """Take leave of the others.

        Args:
            reason: the error for which this process ends the run; None for none of its own.
        """
        self._closing.set()
        for line in self._lines.values():
            line.say(_GOOD_BYE if reason is None else Lost(self._rank, reason))
            line.hang_up()

    def _live(self) -> None:
        """Give signs of life, for as long as this process has any."""
        while not self._closing.wait(self._patience / BEATS):
            for line in self._lines.values():
                with suppress(OSError):
                    line.socket.sendall(_ALIVE)

    def _follow(self, other: int, line: Line) -> None:
        """Wait for the one thing that is said on a line: good-bye, or who was lost."""
        try:
            said = line.hear()
        except TimeoutError:
            said = list(Lost(other, silent=self._patience))
        if not self._closing.is_set() and said != list(_GOOD_BYE):
            self._note(Lost(other, None) if said is None else Lost(*said))

    def _note(self, lost: Lost) -> None:
        with self._lock:
            if self._lost is not None:
                return
            self._lost = lost
        self._known.set()
        for rank, line in self._lines.items():
            if rank != lost.rank:
                line.say(lost)
        if not self._closing.wait(GRACE):
            sys.stderr.write(f"headwise: error: {stopping(self._rank, lost)}\n")
            sys.stderr.flush()
            self.close(str(lost))
            os._exit(1)


_GOOD_BYE = Lost(-1)
_ALIVE = b"\n"


def stopping(rank: int, lost: Lost) -> str:
    """Return what a process says that stops because another was lost."""
    return f"process {rank} stops because {lost}. Continue with --resume."


def open_lifeline(rank: int, count: int, host: str, from_first: Callable[[Any], Any], patience: float) -> Lifeline:
    """Connect the processes of a run; all of them must call it.

    Args:
        rank: of this process.
        count: of all processes.
        host: the machine of the first.
        from_first: hands the first process's item to all.
        patience: seconds without a sign of life after which a process counts as lost.

    Returns:
        This process's end.

    Raises:
        OSError: the processes cannot reach each other.
    """
    if rank > 0:
        return Lifeline(rank, {0: _call(rank, host, from_first(None))}, patience)
    family = socket.getaddrinfo(host, None)[0][0]
    with socket.create_server(("", 0), family=family, backlog=count) as server:
        meeting = from_first(Meeting(server.getsockname()[1], secrets.token_hex()))
        server.settimeout(_MEETING)
        lines: dict[int, Line] = {}
        while len(lines) < count - 1:
            lines |= _answer(server, meeting.token, set(range(1, count)) - lines.keys())
    return Lifeline(rank, lines, patience)


def _call(rank: int, host: str, meeting: Meeting) -> Line:
    """Reach the first process."""
    try:
        connection = socket.create_connection((host, meeting.port), timeout=_MEETING)
    except OSError as error:
        raise OSError(
            f"process {rank} cannot reach the first at {host}, port {meeting.port} ({error}). Open the ports between "
            "the machines of the run."
        ) from None
    line = _line(connection)
    line.say([meeting.token, rank])
    return line


def _answer(server: socket.socket, token: str, missing: set[int]) -> dict[int, Line]:
    """Return the next line by its rank; a stranger's is closed."""
    try:
        connection, _ = server.accept()
    except TimeoutError:
        raise OSError(
            f"process {min(missing)} did not reach the first. Open the ports between the machines of the run."
        ) from None
    line = _line(connection)
    connection.settimeout(_MEETING)
    shown = None
    with suppress(TimeoutError):
        shown = line.hear()
    if shown is not None and len(shown) == 2 and secrets.compare_digest(str(shown[0]), token):
        return {int(shown[1]): line}
    line.hang_up()
    return {}


def _line(connection: socket.socket) -> Line:
    connection.settimeout(None)
    return Line(connection, connection.makefile("rb"))
