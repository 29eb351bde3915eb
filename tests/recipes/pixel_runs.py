"""Runs of a few steps on a few small embedded pictures."""

import json
from pathlib import Path
from typing import Any

STEPS = 4

SMALL: dict[str, Any] = {
    "steps": STEPS,
    "width": 2,
    "depth": 3,
    "batch_size": 2,
    "crop_size": 40,
    "num_pictures": 4,
    "num_held_out": 2,
    "picture_size": 64,
    "num_workers": 0,
    "log_every": 1,
    "checkpoint_every": 2,
    "evaluate_every": STEPS,
}


def lines(folder: Path) -> list[dict[str, Any]]:
    """The run's log, without what the clock says."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in entry.items() if key not in ("time", "images_per_second")} for entry in entries
    ]
