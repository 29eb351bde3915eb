"""Checkpoints that are whole or absent, and hold all that a run needs to continue to the bit."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

FORMAT = "headwise.checkpoint"
VERSION = 1

_NAME = re.compile(r"step_(\d{8,})\.pt")
_UNREADABLE = (RuntimeError, OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError)


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], *, keep: int = 3) -> Path:
    """Write ``step_<step>.pt`` so that a crash, a kill or a full disk leaves the older checkpoints untouched.

    The bytes go to a temporary file in the same folder, to the disk, and only then to their name.

    Args:
        folder: created if missing.
        step: optimiser steps done.
        state: tensors, numbers, strings and containers of them; `FORMAT` and `VERSION` are added.
        keep: how many of the newest checkpoints stay.

    Returns:
        The file.

    Raises:
        OSError: it could not be written, a full disk for instance; nothing half-written stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, "step": step, **state}, buffer)
    path = folder / f"step_{step:08d}.pt"
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        newest = list_checkpoints(folder)[:1]
        rest = f"the last good one is {newest[0].name}" if newest else "there is no earlier one"
        raise _unwritable(
            error,
            f"{path}: the checkpoint could not be written ({_reason(error)}); {rest}. "
            "Make room and run again with --resume.",
        ) from None
    for old in list_checkpoints(folder)[max(keep, 1) :]:
        old.unlink(missing_ok=True)
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Give a file its content as a whole or not at all, also when the machine stops half-way.

    Args:
        path: the file; an existing one is replaced.
        content: its bytes.

    Raises:
        OSError: it could not be written; the message names the file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = f"{path}: could not be written ({_reason(error)}). Make room, or check the folder."
            raise _unwritable(error, reason) from None
        raise
    _sync_folder(path.parent)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _unwritable(error: OSError, message: str) -> OSError:
    """Return an error of the same kind and number with our message, which then stands without the number."""
    mended = type(error)(message)
    mended.errno = error.errno
    return mended


def _sync_folder(folder: Path) -> None:
    """Bring the new name itself to the disk; systems that cannot open folders do without."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest step first; temporary files are not among them."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def load_checkpoint(path: Path, preset: str | None = None) -> dict[str, Any]:
    """Read one checkpoint onto the CPU, without running any code from it.

    Args:
        path: the file.
        preset: the preset that it must be of; None for any.

    Returns:
        The state.

    Raises:
        ValueError: it is truncated, no checkpoint of ours, of a newer version, or of another preset.
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint. Give a file from the checkpoints folder of a run.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(f"{path}: truncated, or no checkpoint ({reason[:80]}). Use an earlier one.") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: no checkpoint of Headwise. Use one that `headwise train` wrote.")
    version = state.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(f"{path}: format {version}, this Headwise reads up to {VERSION}. Update Headwise.")
    if preset is not None and state.get("preset") != preset:
        raise ValueError(
            f"{path}: a checkpoint of preset {state.get('preset')!r}, but the run is of {preset!r}. "
            "Use a checkpoint of the same preset."
        )
    return state


def newest_checkpoint(folder: Path, preset: str, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Read the newest checkpoint that can be read.

    Args:
        folder: of the checkpoints.
        preset: what they must be of.
        warn: told of each unreadable one.

    Returns:
        The state; None where there is no checkpoint at all.

    Raises:
        ValueError: none of the checkpoints can be read, or the newest readable one is of another preset.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            load_checkpoint(path)
        except ValueError as error:
            warn(str(error))
            continue
        return load_checkpoint(path, preset)
    if paths:
        raise ValueError(f"{folder}: none of its {len(paths)} checkpoints can be read. Start a new run.")
    return None
