"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> Path:
    """Write `content` beside `path` first and move it there in one step, so that no reader sees half a file.

    Args:
        path: the file to write; its folder is made where it is missing.
        content: all of the file.

    Returns:
        `path`.

    Raises:
        ValueError: the file cannot be written (a full disk, no permission, a file where a folder should be).
    """
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(partial).chmod(0o644)  # mkstemp lets only its owner read
        Path(partial).replace(path)
    except OSError as error:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        raise ValueError(
            f"report: cannot write {path}: {error.strerror or error}. "
            f"Free some space there, or make {path.parent} a folder you may write to."
        ) from error
    return path
