"""Files that appear whole or not at all, and never in place of what is not ours."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

_guards: dict[Path, Callable[[], None]] = {}
"""Folders, as they are really called -> what refuses to write into them, asked as each file is about to appear."""


def visible(folder: Path) -> list[Path]:
    """What a folder shows: systems put files of their own, such as macOS's ``._NAME``, beside each of the user's.

    Args:
        folder: One that is there.

    Returns:
        Its entries whose names begin with no point, sorted.
    """
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def composed(name: str) -> str:
    """Spell a name as most systems do: an accent and its letter are one character, which macOS may store as two.

    Args:
        name: of a file, in either spelling.

    Returns:
        The same for both.
    """
    return unicodedata.normalize("NFC", name)


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Args:
        text: As it was read.

    Returns:
        Its content.

    Raises:
        ValueError: It is no JSON, no text, or nested too deep to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def each_once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """Names and their values, of which JSON and YAML would take the last of two values of a name, in silence.

    Args:
        pairs: As they were read.

    Returns:
        The same as a dict.

    Raises:
        ValueError: A name is given twice.
    """
    twice = [str(name) for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)}: given twice, keep one")
    return dict(pairs)


class UnwritableError(OSError, ValueError):
    """A file could not be written; `errno` says why."""


def write_atomically(path: Path, content: bytes) -> Path:
    """Gives a file its content as a whole or not at all, also when the machine stops half-way.

    Args:
        path: The file; one that exists is replaced, and its folder is made where it is missing.
        content: All of the file.

    Returns:
        `path`.

    Raises:
        UnwritableError: It cannot be written (a full disk, no permission, a file where a folder should be).
        ValueError: The guard of a folder above it refuses (`guarded`); nothing was written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Asked now and no sooner: a folder that is taken away after this takes the partial file with it.
        _ask_guards(path)
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if not isinstance(error, OSError):
            raise
        raise unwritable(path, error) from error
    _sync_folder(path.parent)
    return path


def unwritable(path: Path, error: OSError) -> UnwritableError:
    """What to raise where a file could not be written.

    Args:
        path: The file.
        error: Of the system.

    Returns:
        An error that names the file, the reason and what to do.
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    told = UnwritableError(
        f"cannot write {path} ({reason}). Free some space there, or make {path.parent} a folder you may write to."
    )
    told.errno = error.errno
    return told


@contextlib.contextmanager
def guarded(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """Has every file that is to appear in a folder, or below it, allowed first.

    Args:
        folder: That is guarded; one guard for each.
        check: Called in the thread that writes; what it raises is what the writer gets.

    Yields:
        Nothing.
    """
    place = folder.resolve()
    _guards[place] = check
    try:
        yield
    finally:
        del _guards[place]


def _ask_guards(path: Path) -> None:
    if _guards:
        place = path.parent.resolve()
        for check in [check for folder, check in list(_guards.items()) if place.is_relative_to(folder)]:
            check()


def _clear(path: Path) -> None:
    """Removes what processes left that were killed while they wrote the same file."""
    for left in _left_behind(path.parent, os.getpid()).pop(path.name, ()):
        left.unlink(missing_ok=True)


@lru_cache(maxsize=256)
def _left_behind(folder: Path, reader: int) -> dict[str, list[Path]]:
    """What killed writers left in a folder, by the file that they wrote; looked for once, for a full one is long."""
    del reader  # a process looks for itself: when it began, others were alive
    found: dict[str, list[Path]] = {}
    for each in folder.glob(".*.tmp"):
        partial = _PARTIAL.fullmatch(each.name)
        if partial and not _is_alive(int(partial["writer"])):
            found.setdefault(partial["name"], []).append(each)
    return found


_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<writer>\d+)-\d+\.tmp", re.DOTALL)


def _is_alive(process: int) -> bool:
    """Whether a process is there; where the system does not tell, it is."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """The new name reaches the disk too, where the system can open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def refuse_to_replace(path: Path, begins: str, what: str) -> None:
    """Refuses to replace a file that is not ours, such as a script that was named in place of a result.

    Args:
        path: Where something is to be written.
        begins: What a file of ours begins with.
        what: What is to be written, for the message.

    Raises:
        ValueError: Another file is there. One that is empty, or missing, is nobody's.
    """
    if not path.exists():
        return
    content = b"?"
    if path.is_file():
        with path.open("rb") as file:
            content = file.read(len(begins))
    refuse_foreign(path, content, begins, what)


def refuse_foreign(path: Path, content: bytes, begins: str, what: str) -> None:
    """Refuses to replace a file that was read already.

    Args:
        path: As of `refuse_to_replace`.
        content: What it begins with, as long as `begins` where it is as long.
        begins: As there.
        what: As there.

    Raises:
        ValueError: It is not empty, and does not begin so.
    """
    if content and content != begins.encode():
        raise ValueError(f"{path} is there and is no {what}: it is not replaced. Move it away, or name another file")
