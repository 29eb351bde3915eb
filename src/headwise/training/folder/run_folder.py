"""The folder of a run: what it was called with, and whether one may start or continue there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from headwise.attribution.ledger.weighing.balancing import moving_weights
from headwise.files import parse_json, write_atomically
from headwise.runs.reading import LOOP
from headwise.runs.run import versions
from headwise.training.folder.checkpoints import list_checkpoints, newest_checkpoint
from headwise.training.task import Settings, Task

_PACKAGES = ("headwise", "torch", "torchvision", "lightning-fabric", "numpy")


FREE_ARGUMENTS = frozenset(
    {"data", "train_split", "held_out_split", "micro_batches", "strategy", "num_workers", "device", "patience"}
)
"""What a resumed run may be given anew: how its steps are carried out and where its data lie, not what they are."""


_HELD: dict[str, Any] = {
    **dict.fromkeys(("arguments", "network", "criterion", "optimizer", "scheduler", "books", "scores"), Mapping),
    "seconds": float,
}
"""What a checkpoint must hold to be continued from, and of which kind it is."""


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
    check_folder(folder, resume=resume)
    saved = _saved_state(folder, task, say) if resume else None
    if saved is None:
        start_folder(folder, task, settings)
    else:
        _keep_arguments(folder, task)
    return saved


def check_folder(folder: Path, *, resume: bool) -> None:
    """Refuse a folder in which a run would lose something.

    Args:
        folder: to train into.
        resume: whether a run in it is to be continued.

    Raises:
        ValueError: it holds something that is no run, a run that has begun, or one whose checkpoints are gone.
        OSError: its ``config.json`` cannot be read.
    """
    names = {path.name for path in folder.iterdir()} - {"lock"} if folder.is_dir() else set()
    if not names:
        return
    if "config.json" not in names:
        raise ValueError(f"{folder}: it holds {min(names)!r}, and no run of Headwise. Choose another --out.")
    config = read_config(folder)
    if config.get("loop") == LOOP:
        raise ValueError(f"{folder}: a run of another loop is there. Choose another --out.")
    has_checkpoints = bool(list_checkpoints(folder / "checkpoints"))
    if not resume and (has_checkpoints or saved_step(folder)):
        raise ValueError(f"{folder}: a run is there already. Continue it with --resume, or choose another --out.")
    if not has_checkpoints and saved_step(folder):
        raise ValueError(
            f"{folder}: the run reached step {saved_step(folder)} of {config.get('steps')}, but its checkpoints are "
            "gone, so it cannot continue. Put one back, or choose another --out; its log and its scores stay."
        )


def note_saved(folder: Path, step: int) -> None:
    """Write down that a checkpoint was written, so that a run whose checkpoints were removed is known for what it is.

    Args:
        folder: of the run.
        step: of the checkpoint.
    """
    write_atomically(folder / "saved.json", json.dumps({"step": step}).encode() + b"\n")


def saved_step(folder: Path) -> int:
    """Return the step of the last checkpoint that was ever written.

    Args:
        folder: of the run.

    Returns:
        The step; 0 for none.
    """
    try:
        step = parse_json((folder / "saved.json").read_bytes())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return step if isinstance(step, int) else 0


def _keep_arguments(folder: Path, task: Task) -> None:
    """Keep what a resumed run was told anew, so that it need not be told again."""
    config = read_config(folder)
    if config["arguments"] != json.loads(json.dumps(dict(task.arguments))):
        _write_config(folder, {**config, "arguments": dict(task.arguments)})


def _saved_state(folder: Path, task: Task, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return what to continue from; None where the run was ended before its first checkpoint."""
    saved = newest_checkpoint(
        folder / "checkpoints", task.preset, lambda text: say(f"headwise: warning: {text}"), run=run_id(folder)
    )
    if saved is None:
        say(f"{folder}: no checkpoint yet, so the run begins at its first step.")
        return None
    lacking = [name for name, kind in _HELD.items() if not isinstance(saved.get(name), kind)]
    if lacking:
        raise ValueError(
            f"{folder}: its checkpoint of step {saved['step']} lacks {', '.join(lacking)}, or holds something else as "
            "that. Resume with the Headwise that began the run, or start a new one."
        )
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
        folder: new, empty, or of a run that has not reached its first checkpoint, whose log is written over.
        task: the parts.
        settings: the numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    config = {
        "run": secrets.token_hex(8),
        "recipe": task.recipe,
        "preset": task.preset,
        "seed": settings.seed,
        "steps": settings.steps,
        "arguments": dict(task.arguments),
        "versions": {**versions(*_PACKAGES), "device": device},
        "terms": list(task.criterion.names),
        "scheduled": list(moving_weights(task.criterion, settings.balance)),
        "card": task.card,
    }
    _write_config(folder, config)


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")


def run_id(folder: Path) -> str | None:
    """Return by what the checkpoints of a folder know their run.

    Args:
        folder: of the run.

    Returns:
        What its ``config.json`` says; None where it is missing or says nothing.
    """
    try:
        run = read_config(folder).get("run")
    except (ValueError, OSError):
        return None
    return run if isinstance(run, str) else None


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
        config = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error}). Restore the file or start a new run.") from None
    if not isinstance(config, dict) or not isinstance(config.get("arguments"), dict):
        raise ValueError(f"{path}: no 'arguments' in it. Restore the file or start a new run.")
    return config
