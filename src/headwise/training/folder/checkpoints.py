"""Checkpoints that are what was written, or are refused, and hold all that a run needs to continue to the bit.

A checkpoint is torch's own archive. Its comment holds a digest of all bytes before it, so that nothing of a file that
was damaged is parsed; its content holds a digest of each tensor, the step and the run, so that a file in another's
place is known. (`torch.distributed.checkpoint` verifies neither, and writes many files that can be whole one by one.)
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from headwise.files import write_atomically
from headwise.structure import leaves

FORMAT = "headwise.checkpoint"
VERSION = 2

_READABLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_NAME = re.compile(r"step_(\d{8,})\.pt")
_DIGEST = b"headwise sha256 "
_COMMENT = len(_DIGEST) + 64
_END = 22


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], *, keep: int = 3) -> Path:
    """Write ``step_<step>.pt`` so that a crash, a kill or a full disk leaves the older checkpoints untouched.

    The bytes go to a temporary file in the same folder, to the disk, and only then to their name.

    Args:
        folder: created if missing.
        step: optimizer steps done.
        state: tensors, numbers, strings and containers of them; `FORMAT`, `VERSION`, the step and the tensors' digests
            are added.
        keep: how many of the newest checkpoints stay; this one in any case, should later ones be damaged.

    Returns:
        The file.

    Raises:
        OSError: it could not be written, a full disk for instance; nothing half-written stays.
        ValueError: the state holds something that could not be read again, a number of NumPy's for instance.
    """
    try:
        _check_readable(state)
    except RecursionError:
        raise ValueError("checkpoint: the state holds itself, or is nested too deep to be read again.") from None
    tensors = {name: _tensor_digest(tensor) for name, tensor in leaves(state)}
    content = _archive({**state, "format": FORMAT, "version": VERSION, "step": step, "digests": tensors})
    path = folder / f"step_{step:08d}.pt"
    try:
        write_atomically(path, content)
    except OSError as error:
        good = next(filter(_is_good, list_checkpoints(folder)), None)
        rest = f"the last good one is {good.name}" if good else "there is no earlier one"
        raise _unwritable(
            error,
            f"{path}: the checkpoint could not be written ({_reason(error)}); {rest}. "
            "Make room and run again with --resume.",
        ) from None
    for old in list_checkpoints(folder)[max(keep, 1) :]:
        if old != path and old.is_file():
            old.unlink(missing_ok=True)
    return path


def _check_readable(state: Any, where: str = "state") -> None:
    """Asks for what torch reads without running code; else it would be known when the run is resumed."""
    if isinstance(state, Mapping) and type(state) in (dict, OrderedDict, Counter):
        for key, value in state.items():
            _check_readable(key, f"a key of {where}")
            _check_readable(value, f"{where}[{key!r}]")
    elif type(state) in (list, tuple, set):
        for number, value in enumerate(state):
            _check_readable(value, f"{where}[{number}]")
    elif type(state) not in _READABLE and not isinstance(state, Tensor):
        kind = f"{type(state).__module__}.{type(state).__name__}"
        raise ValueError(
            f"checkpoint: {where} is of {kind}, which could not be read again. Save tensors, numbers of Python's, "
            "text, and dicts, lists, tuples and sets of these."
        )
    elif isinstance(state, Tensor) and (state.layout != torch.strided or state.is_meta):
        kind = "without content (meta)" if state.is_meta else f"of {state.layout}"
        raise ValueError(f"checkpoint: {where} is a tensor {kind}, whose content has no digest. Save a dense one.")


def _archive(state: Mapping[str, Any]) -> bytes:
    """Return torch's archive of a state, with the digest of all before it as its comment."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(-2, os.SEEK_END)  # torch writes no comment: the archive ends with its length, 0
    buffer.write(_COMMENT.to_bytes(2, "little"))
    buffer.write(_comment(buffer.getbuffer()))
    return buffer.getvalue()


def _comment(content: memoryview) -> bytes:
    return _DIGEST + hashlib.sha256(content).hexdigest().encode()


def _tensor_digest(tensor: Tensor) -> str:
    kind = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    # One element is contiguous at any stride, but is seen as bytes at stride 1 alone.
    content = flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy()
    return hashlib.sha256(kind + content.data).hexdigest()


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _unwritable(error: OSError, message: str) -> OSError:
    """Return an error of the same kind and number with our message, which then stands without the number."""
    mended = type(error)(message)
    mended.errno = error.errno
    return mended


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest step first; temporary files are not among them."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    """Return the step that a checkpoint's name tells; -1 for a file of another name."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _is_good(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except (ValueError, OSError):
        return False
    return True


def load_checkpoint(path: Path, preset: str | None = None) -> dict[str, Any]:
    """Read one checkpoint onto the CPU, without running any code from it, if it is what was written.

    Args:
        path: the file.
        preset: the preset that it must be of; None for any.

    Returns:
        The state.

    Raises:
        ValueError: it is truncated, damaged, no checkpoint of ours, of another version, step or preset.
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint. Give a file from the checkpoints folder of a run.")
    with path.open("rb") as file:
        _check_content(path, file)
        state = _unpickled(path, file)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: no checkpoint of Headwise. Use one that `headwise train` wrote.")
    if state.get("version") != VERSION:
        raise ValueError(f"{path}: format {state.get('version')}, this Headwise reads {VERSION}. Use its own Headwise.")
    _check_tensors(path, state)
    if _step(path) not in (-1, state.get("step")):
        raise ValueError(f"{path}: holds step {state.get('step')}, so it is in another's place. Give it its name back.")
    _check_preset(path, state, preset)
    return state


def _check_content(path: Path, file: BinaryIO) -> None:
    """Refuse what is not, byte for byte, what was written; nothing of it is parsed."""
    content = file.read()
    file.seek(0)
    body, comment = memoryview(content)[:-_COMMENT], content[-_COMMENT:]
    if not comment.startswith(_DIGEST):
        whole = content[-_END : 4 - _END] == b"PK\5\6"  # the end of an archive without a comment
        reason = (
            "no checkpoint of Headwise: changed, truncated, or no checkpoint"
            if whole
            else "truncated, or no checkpoint"
        )
        raise ValueError(f"{path}: {reason} (no digest at its end). Use an earlier one.")
    if comment != _comment(body):
        raise ValueError(f"{path}: damaged: its content is not what was written (digest). Use an earlier one.")


def _unpickled(path: Path, file: BinaryIO) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # an archive that somebody made may raise whatever torch's reader runs into
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(f"{path}: no checkpoint ({reason[:80]}). Use an earlier one.") from None


def _check_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """Refuse tensors that are not those whose digests were taken, before torch wrote and read them."""
    found = {name: _tensor_digest(tensor) for name, tensor in leaves(state)}
    wanted = state.get("digests")
    if found != wanted:
        known = wanted if isinstance(wanted, Mapping) else {}
        name = next((name for name in {**found, **known} if found.get(name) != known.get(name)), "digests")
        raise ValueError(f"{path}: damaged: {name!r} is not what was written (digest). Use an earlier one.")


def _check_preset(path: Path, state: Mapping[str, Any], preset: str | None) -> None:
    if preset is not None and state.get("preset") != preset:
        raise ValueError(
            f"{path}: a checkpoint of preset {state.get('preset')!r}, but the run is of {preset!r}. "
            "Use a checkpoint of the same preset."
        )


def newest_checkpoint(
    folder: Path, preset: str | None, warn: Callable[[str], None], *, run: str | None = None
) -> dict[str, Any] | None:
    """Read the newest checkpoint that serves.

    Args:
        folder: of the checkpoints.
        preset: what they must be of; None for any.
        warn: told of each one that does not serve.
        run: the run that they must be of; None for any.

    Returns:
        The state; None where there is no checkpoint at all.

    Raises:
        ValueError: none of the checkpoints serves, or the newest that does is of another preset.
    """
    refused = []
    for path in list_checkpoints(folder):
        try:
            state = load_checkpoint(path)
            _check_run(path, state, run)
        except (ValueError, OSError) as error:
            warn(str(error))
            refused.append(str(error))
            continue
        _check_preset(path, state, preset)
        return state
    if refused:
        raise ValueError(f"{folder}: none of its {len(refused)} checkpoints serves; {refused[0]} Or start a new run.")
    return None


def _check_run(path: Path, state: Mapping[str, Any], run: str | None) -> None:
    if run is not None and state.get("run") != run:
        raise ValueError(f"{path}: a checkpoint of another run ({state.get('run')}). Keep it in its own folder.")
