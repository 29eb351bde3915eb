"""One folder, one run: a lock that the system takes back when the process that holds it ends, however it ends."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headwise.files import guarded, refuse_foreign, unwritable

LOCK = "lock"
"""The file in the folder of a run. It stays: only a process that holds it locked keeps others out."""

_OWNER = "process "
_TAKEN = (errno.EACCES, errno.EAGAIN)
_held: dict[Path, tuple[int, int]] = {}
"""Folders -> the process that locked them, for the system's locks keep out other processes only; and its open file."""


@contextmanager
def sole_run(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Keep all other runs out of a folder, and this one out of a folder that another took in its place.

    The lock is the kind that a forked process does not inherit, so that no loading process outlives a run with it.

    Args:
        folder: of the run; created if missing.
        say: told where the file system knows no locks.

    Yields:
        Nothing.

    Raises:
        ValueError: another run is under way there, which the message names, or the lock's name is another file's.
        OSError: the folder cannot be written.
    """
    place = folder.resolve()
    if _is_held(place):
        raise ValueError(_refusal(folder, "this process"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(folder / LOCK, error) from error
    try:
        _lock(descriptor, folder, say)
        _held[place] = os.getpid(), descriptor
        with guarded(place, lambda: check_sole(folder)):
            yield
    finally:
        if _is_held(place):
            del _held[place]
        os.close(descriptor)


def _is_held(place: Path) -> bool:
    return _held.get(place, (None, None))[0] == os.getpid()


def check_sole(folder: Path) -> None:
    """Refuse to write on into a folder in whose place another run may have begun.

    Args:
        folder: that `sole_run` keeps for this process.

    Raises:
        ValueError: its lock is another file than the one that this process holds.
    """
    _, descriptor = _held[folder.resolve()]
    with suppress(FileNotFoundError):  # a folder that was removed is no one else's
        if not os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat()):
            raise ValueError(
                f"{folder}: the folder of this run was removed, and another run began in its place. This one stops and "
                "writes nothing more there."
            )


def _lock(descriptor: int, folder: Path, say: Callable[[str], object]) -> None:
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
    # Read by what holds the lock: a file that is opened anew gives it back when it is closed.
    refuse_foreign(folder / LOCK, os.pread(descriptor, len(_OWNER), 0), _OWNER, "lock of a run")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{_OWNER}{os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _refusal(folder: Path, owner: str) -> str:
    return f"{folder}: a run is under way there ({owner}). Wait for its end, or choose another folder."
