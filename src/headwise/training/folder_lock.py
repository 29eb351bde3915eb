"""One folder, one run: a lock that the system takes back when the process that holds it ends, however it ends."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "lock"
"""The file in the folder of a run. It stays: only a process that holds it locked keeps others out."""

_TAKEN = (errno.EACCES, errno.EAGAIN)
_held: dict[Path, int] = {}
"""Folders by the process that locked them: the system's locks keep out other processes only."""


@contextmanager
def sole_run(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep all other runs out of a folder.

    The lock is the kind that a forked process does not inherit, so that no loading process outlives a run with it.

    Args:
        folder: of the run; created if missing.
        say: told where the file system knows no locks.

    Yields:
        Nothing.

    Raises:
        ValueError: another run is under way there; the message names it.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder.resolve()
    if _held.get(place) == os.getpid():
        raise ValueError(_refusal(folder, "this process"))
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, folder, say)
        _held[place] = os.getpid()
        yield
    finally:
        if _held.get(place) == os.getpid():
            del _held[place]
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, say: Callable[[str], None]) -> None:
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _TAKEN:
            say(f"headwise: warning: {folder}: cannot be locked ({error.strerror}). Start no second run there.")
            return
        told = os.pread(descriptor, 200, 0).decode(errors="replace")
        owner = "".join(character for character in told if character.isprintable())
        raise ValueError(_refusal(folder, owner or "another process")) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _refusal(folder: Path, owner: str) -> str:
    return f"{folder}: a run is under way there ({owner}). Wait for its end, or choose another --out."
