"""Files that appear whole or not at all, and never in place of what is not ours."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


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
    """
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".headwise.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o644)  # mkstemp lets only its owner read
        Path(partial).replace(path)
        partial = None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        told = UnwritableError(
            f"cannot write {path} ({reason}). Free some space there, or make {path.parent} a folder you may write to."
        )
        told.errno = error.errno
        raise told from error
    finally:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
    _sync_folder(path.parent)
    return path


def _sync_folder(folder: Path) -> None:
    """The new name reaches the disk too, where the system can open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def refuse_to_replace(path: Path, marks: tuple[str, ...], what: str) -> None:
    """Refuses to write into or over what is not ours.

    Args:
        path: A folder that is to be written into, or a file that is to be replaced.
        marks: What tells our own: names of files that a folder of ours holds; for a file what it begins with.
        what: What is to be written there, for the message.

    Raises:
        ValueError: There is something else. An empty folder and an empty file are nobody's.
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_dir():
        held = sorted(entry.name for entry in path.iterdir())
        if held and not any(mark in held for mark in marks):
            raise ValueError(
                f"{path} holds {', '.join(held[:5])}{', ...' if len(held) > 5 else ''}, and is no {what}: nothing is "
                "written there. Name an empty folder, or a new one"
            )
        return
    begin = path.read_bytes()[:200] if path.is_file() else b"?"
    if begin and not any(begin.startswith(mark.encode()) for mark in marks):
        raise ValueError(f"{path} is a file, and no {what}: it is not replaced. Name another")
