"""The folder of a run: what it was called with, and whether one may start or continue there."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from headwise.training.checkpoints import list_checkpoints, newest_checkpoint, write_atomically
from headwise.training.task import Settings, Task

_PACKAGES = ("headwise", "torch", "torchvision", "lightning-fabric", "numpy")


FREE_ARGUMENTS = frozenset({"micro_batches", "strategy", "num_workers", "device"})
"""What a resumed run may be given anew: how its steps are carried out, not what they are."""


def open_folder(
    folder: Path, task: Task, settings: Settings, say: Callable[[str], None], *, resume: bool
) -> Mapping[str, Any] | None:
    """Make the folder of a run, or find what to continue from.

    Args:
        folder: of the run.
        task: the parts.
        settings: the numbers.
        say: told what is found.
        resume: continue from the newest checkpoint that can be read.

    Returns:
        The state to continue from; None for a fresh run.

    Raises:
        ValueError: a run is there already (without `resume`), or its checkpoints cannot be used.
        OSError: the folder cannot be written.
    """
    saved = _saved_state(folder, task, say) if resume else None
    if saved is None:
        start_folder(folder, task, settings)
    return saved


def _saved_state(folder: Path, task: Task, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return what to continue from; None where the run was ended before its first checkpoint."""
    saved = newest_checkpoint(folder / "checkpoints", task.preset, lambda text: say(f"headwise: warning: {text}"))
    if saved is None:
        say(f"{folder}: no checkpoint yet, so the run begins at its first step.")
        return None
    names = saved["arguments"].keys() | dict(task.arguments).keys()
    differing = [
        name for name in sorted(names - FREE_ARGUMENTS) if saved["arguments"].get(name) != task.arguments.get(name)
    ]
    if differing:
        raise ValueError(
            f"{folder}: the run was started with another {', '.join(differing)}. Resume it with the same arguments."
        )
    say(f"{folder}: continuing after step {saved['step']}.")
    return saved


def start_folder(folder: Path, task: Task, settings: Settings) -> None:
    """Make the folder of a fresh run and write its ``config.json``.

    Args:
        folder: new, empty, or of a run that has not reached its first checkpoint.
        task: the parts.
        settings: the numbers.

    Raises:
        ValueError: a run is there already.
    """
    if list_checkpoints(folder / "checkpoints"):
        raise ValueError(f"{folder}: a run is there already. Continue it with --resume, or choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("log.jsonl", "evaluation.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for name in ("samples", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    config = {
        "recipe": task.recipe,
        "preset": task.preset,
        "seed": settings.seed,
        "steps": settings.steps,
        "arguments": dict(task.arguments),
        "versions": {"python": platform.python_version(), **_versions()},
        "terms": list(task.criterion.names),
        "card": task.card,
    }
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")


def read_config(folder: Path) -> dict[str, Any]:
    """Read the ``config.json`` of a run.

    Args:
        folder: of the run.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON object with the keys that a run writes.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Give the folder of a run, or start one without --resume.")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error}). Restore the file or start a new run.") from None
    if not isinstance(config, dict) or not isinstance(config.get("arguments"), dict):
        raise ValueError(f"{path}: no 'arguments' in it. Restore the file or start a new run.")
    return config


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return {**found, "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
