"""A run of a second: a tiny network with two terms on made-up pictures. `main` is for processes of their own."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning_fabric  # noqa: F401  loaded once, before processes are forked
import numpy as np
import torch
import torch.utils.tensorboard  # noqa: F401  the same
from torch import Tensor, nn

from headwise import losses, normalizers
from headwise.criterion import Criterion, Term
from headwise.runs.top_samples import Shown
from headwise.training import Batch, Outcome, Settings, Task, train
from headwise.training.ranks import Ranks

STEPS = 20
BATCH = 5
ARGUMENTS = {"width": 4}


class TinyNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"maps": self.head(self.body(image))}


class Batches:
    """Batches by step; `pause` seconds each, so that a kill finds the run at work."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause

    def __call__(self, first: int, last: int, micro_batches: int, ranks: Ranks) -> Iterator[Batch]:
        for step in range(first, last):
            time.sleep(self.pause)
            generator = torch.Generator().manual_seed(step)
            images = torch.rand(BATCH, 3, 8, 8, generator=generator)
            parts = images.tensor_split(ranks.count * micro_batches)
            names = torch.arange(BATCH).tensor_split(ranks.count * micro_batches)
            own = slice(ranks.rank * micro_batches, (ranks.rank + 1) * micro_batches)
            for part, ids in zip(parts[own], names[own], strict=True):
                yield Batch(part, {"region": part[:, 0] > 0.5, "level": part[:, 1]}, ids.tolist())


def evaluate(network: nn.Module, samples: Path | None, ranks: Ranks) -> dict[str, Any]:
    network.eval()
    with torch.no_grad():
        mean = float(network(torch.full((1, 3, 8, 8), 0.5))["maps"].mean())
    network.train()
    return {"iou50": {"precision": mean, "recall": mean, "f": mean}, "num_images": 1}


def make_task(pause: float = 0.0, preset: str = "tiny", arguments: dict[str, Any] | None = None) -> Task:
    torch.manual_seed(0)
    network = TinyNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    terms = [
        Term("region", losses.cross_entropy, normalizers.count, output="maps[:, 0:2]", target="region"),
        Term("level", losses.smooth_l1, normalizers.count, output="maps[:, 2]", target="level", mask="region"),
    ]
    return Task(
        recipe="tiny",
        preset=preset,
        card="| term | loss |",
        arguments=arguments or ARGUMENTS,
        network=network,
        criterion=Criterion(terms),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, STEPS),
        batches=Batches(pause),
        evaluate=evaluate,
        show=lambda number: Shown(f"picture {number}", np.full((9, 8, 3), number, np.uint8)),
    )


def settings(**changes: Any) -> Settings:
    numbers = {"steps": STEPS, "log_every": 2, "checkpoint_every": 3, "evaluate_every": 5, **changes}
    return Settings(**numbers)


def run(folder: Path, *, resume: bool = False, pause: float = 0.0) -> Outcome:
    return train(make_task(pause), settings(), folder, resume=resume)


def main(folder: str, resume: bool, pause: float) -> None:
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        outcome = run(Path(folder), resume=resume, pause=pause)
    sys.exit(0 if outcome.signal is None else 128 + outcome.signal)
