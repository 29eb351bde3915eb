"""What several tests of this folder share: clear refusals, children that end, run folders made by hand."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

from tests.expect import check_line as check_line
from tests.expect import refused as refused

SMALL = {
    "checkpoint_every": 4, "log_every": 4, "evaluate_every": 100, "num_pictures": 12, "num_held_out": 3,
    "batch_size": 3, "crop_size": 48, "depth": 2, "width": 4,
}  # fmt: skip
"""A weighted U-Net whose steps take milliseconds."""


class Child:
    """A process of ours: started with its own session, so that all of it can be ended, and only that."""

    def __init__(self, folder, *command, env=None, cwd=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.out_path, self.err_path = folder / "out.txt", folder / "err.txt"
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        with self.out_path.open("wb") as out, self.err_path.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, command)], stdout=out, stderr=err, env=settings, cwd=cwd,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    @property
    def out(self):
        return self.out_path.read_text(errors="replace")

    @property
    def err(self):
        return self.err_path.read_text(errors="replace")

    @property
    def code(self):
        return self.process.poll()

    def wait(self, condition, seconds):
        """Whether the condition comes true before the time is over or the process ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            if self.code is not None:
                return condition()
            time.sleep(0.05)
        return False

    def ended(self, seconds):
        """Whether it ends in time."""
        return self.wait(lambda: self.code is not None, seconds)

    def end(self):
        """Ends what is left of it, whatever it was doing."""
        if self.code is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)


def run(folder, *command, seconds=60, **options):
    """Runs Python to its end.

    Returns:
        The child, ended; its `code` is -9 if it had to be.
    """
    child = Child(folder, *command, **options)
    child.ended(seconds)
    child.end()
    return child


def line(step, terms, **changes):
    """A line of log.jsonl."""
    value = {name: math.exp(-step / 40) + 0.1 * place for place, name in enumerate(terms)}
    total = sum(value.values())
    entries = {
        name: {
            "value": value[name], "weight": 1.0, "weighted": value[name], "share": value[name] / total,
            "grad_norm": 0.1 * value[name], "finite": True,
            "outputs": {f"out[{place}]": {"grad_norm": 0.1 * value[name], "finite": True}}, "levels": {},
        }
        for place, name in enumerate(terms)
    }  # fmt: skip
    return {
        "step": step, "time": 0.1 * step, "images_per_second": 9.0, "learning_rate": 1e-3, "total": total,
        "terms": entries, "cosine": {}, **changes,
    }  # fmt: skip


def run_folder(folder, terms, *, lines=6, change_config=None, change_lines=None):
    """A folder as a training run leaves it, with what a test wants to be odd in it."""
    folder.mkdir(parents=True)
    config = {
        "recipe": "textsnake", "preset": "textsnake", "seed": 0, "steps": lines, "arguments": {"batch_size": 4},
        "versions": {"python": "3.11"}, "terms": list(terms), "card": "A card",
    }  # fmt: skip
    if change_config:
        change_config(config)
    rows = [line(step, terms) for step in range(1, lines + 1)]
    if change_lines:
        change_lines(rows)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    measures = {"precision": 0.5, "recall": 0.5, "f": 0.5}
    (folder / "evaluation.jsonl").write_text(json.dumps({"step": lines, "iou50": measures, "num_images": 4}) + "\n")
    return folder
