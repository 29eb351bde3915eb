"""Runs of a second on several processes, forked from a server that has imported everything once.

What goes wrong in a run is part of it: a spec says which process is killed, told to end, or finds a bad picture, and
before which step.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import lightning_fabric.strategies.model_parallel  # noqa: F401  loaded once, before processes are forked
import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.fsdp  # noqa: F401  the same
import torch.utils.tensorboard  # noqa: F401  the same
from torch import Tensor, nn

from headwise import losses, normalizers
from headwise.criterion import Criterion, Term
from headwise.data import Picture, TextAnnotation
from headwise.recipes.batches import Batches
from headwise.recipes.configuration import Configuration
from headwise.training import Batch, Settings, Task, engine, train
from headwise.training.processes import lifeline
from headwise.training.ranks import Ranks

NUM_PICTURES, BATCH = 11, 5
CLIP_NORM = 0.05
"""Of runs of the plain network; most of its gradients are longer."""
GONE = "pictures/7.png: no such picture. Check the path."


@dataclass(frozen=True)
class Spec:
    """A run.

    Args:
        folder: of the run.
        ranks: processes.
        events: what happens, as (rank, step, kind): "kill", "stop", "term", "gone", "hang", "nan", or "full"
            (a disk).
        plain: a network without batch normalization and dropout, whose steps do not depend on the split.
        resume: as in `train`.
        environment: further variables.
        grace: seconds, instead of `lifeline.GRACE`.
        pause: seconds before each step.
        settings: of the run.
    """

    folder: str
    ranks: int = 2
    events: tuple[tuple[int, int, str], ...] = ()
    plain: bool = False
    resume: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    grace: float = 10.0
    pause: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)


class Network(nn.Module):
    def __init__(self, plain: bool) -> None:
        super().__init__()
        between = [] if plain else [nn.BatchNorm2d(4), nn.Dropout(0.2)]
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *between, nn.Tanh())
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"maps": self.head(self.body(image))}


class Pictures:
    """Pictures that know their number."""

    def __len__(self) -> int:
        return NUM_PICTURES

    def __getitem__(self, index: int) -> Picture[TextAnnotation]:
        image = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
        return Picture(str(index), image, TextAnnotation((), (), ()))


def prepare(picture: Picture[TextAnnotation], seed: int) -> tuple[Tensor, int]:
    noise = np.random.default_rng(seed).random(picture.image.shape)
    return torch.from_numpy((picture.image / 255 + noise) / 2).float().permute(2, 0, 1), int(picture.name)


def collate(samples: list[tuple[Tensor, int]]) -> Batch:
    images = torch.stack([image for image, _ in samples])
    numbers = torch.tensor([number for _, number in samples])
    return Batch(images, {"region": images[:, 0] > 0.5, "level": images[:, 1], "number": numbers})


class Eventful:
    """Batches before which things happen."""

    def __init__(self, batches: Batches, spec: Spec) -> None:
        self.batches, self.spec = batches, spec
        self.waiting: list[list[int]] = []

    def __call__(self, first: int, last: int, micro_batches: int, ranks: Ranks) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches(first, last, micro_batches, ranks)):
            step = first + number // micro_batches
            time.sleep(self.spec.pause)
            for rank, when, kind in self.spec.events:
                if (rank, when) == (ranks.rank, step):
                    happen(kind, batch)
            self.waiting.append(batch.targets["number"].tolist())
            yield batch


_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}


def happen(kind: str, batch: Batch) -> None:
    if kind in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[kind])
    elif kind == "gone":
        raise FileNotFoundError(GONE)
    elif kind == "hang":
        time.sleep(60)
    elif kind == "nan":
        batch.targets["level"] = torch.full_like(batch.targets["level"], float("nan"))
    elif kind == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


def make_evaluation(network: nn.Module, samples: Path | None, ranks: Ranks) -> dict[str, Any]:
    """A number for each of five pictures, which the processes do not share evenly; their order matters."""
    network.eval()
    with torch.no_grad():
        own = [float(network(torch.full((1, 3, 8, 8), index / 5))["maps"].mean()) for index in ranks.share(5)]
    network.train()
    return {"means": {str(index): mean for index, mean in enumerate(ranks.gather(own))}, "num_images": 5}


def make_task(spec: Spec, rank: int, steps: int) -> Task:
    torch.manual_seed(0)
    network = Network(spec.plain)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
    terms = [
        Term("region", losses.cross_entropy, normalizers.count, output="maps[:, 0:2]", target="region"),
        Term("level", losses.smooth_l1, normalizers.count, output="maps[:, 2]", target="level", mask="region"),
    ]
    configuration = Configuration(batch_size=BATCH, num_workers=0)
    batches = Eventful(Batches(Pictures(), prepare, collate, configuration), spec)

    def note_samples(module: nn.Module, _: Any) -> None:
        """Write down, with one call of the system, which samples a step begins with: before others can use them."""
        if not module.training:
            return
        line = json.dumps([scheduler.last_epoch, os.getpid(), batches.waiting.pop(0)]) + "\n"
        Path(spec.folder).mkdir(exist_ok=True)
        file = os.open(f"{spec.folder}/samples.{rank}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(file, line.encode())
        os.close(file)

    network.register_forward_pre_hook(note_samples)
    return Task(
        recipe="tiny",
        preset="tiny",
        card="",
        arguments={"plain": spec.plain, "micro_batches": spec.settings.get("micro_batches", 1)},
        network=network,
        criterion=Criterion(terms, unread=["number"]),
        optimizer=optimizer,
        scheduler=scheduler,
        batches=batches,
        evaluate=make_evaluation,
    )


def used_samples(folder: Path, rank: int) -> tuple[dict[int, list[int]], int]:
    """The samples of every step of a process, as it was last done, and how many steps were begun again."""
    found: dict[int, list[int]] = {}
    whose: dict[int, int] = {}
    before, again = -1, 0
    for line in (folder / f"samples.{rank}").read_text().splitlines():
        step, process, numbers = json.loads(line)
        if whose.get(step) == process:  # the next micro-batch
            found[step] += numbers
            continue
        assert step <= before + 1, f"process {rank} went from step {before} to {step}"
        again += step in found
        found[step], whose[step], before = numbers, process, step
    return found, again


def main(rank: int, spec: Spec, meet: str) -> None:
    """One process of the run; what it says goes to ``<meet>/<rank>.txt``."""
    torch.set_num_threads(1)
    lifeline.GRACE = spec.grace
    engine.SMALLEST_SHARD = 100  # of the two convolutions one is a shard of its own
    if spec.ranks > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": spec.ranks, "LOCAL_WORLD_SIZE": spec.ranks}
        os.environ.update({name: str(value) for name, value in places.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", **spec.environment})
        dist.init_process_group("gloo", init_method=f"file://{meet}/meet", rank=rank, world_size=spec.ranks)
    numbers = {"steps": 12, "log_every": 2, "checkpoint_every": 3, "evaluate_every": 6, **spec.settings}
    if spec.plain:
        numbers = {"clip_norm": CLIP_NORM, **numbers}
    settings = Settings(**numbers)
    with open(f"{meet}/{rank}.txt", "w", buffering=1) as said:
        sys.stdout = sys.stderr = said
        os.dup2(said.fileno(), 2)
        try:
            outcome = train(make_task(spec, rank, settings.steps), settings, spec.folder, resume=spec.resume)
        except (ValueError, OSError, FloatingPointError) as error:  # as the command does
            said.write(f"headwise: error: {error}\n")
            os._exit(2)
        said.flush()
    os._exit(0 if outcome.signal is None else 128 + outcome.signal)


@dataclass(frozen=True)
class Ended:
    """How the processes of a run ended: exit codes, negative for signals, and what each said, by rank."""

    codes: list[int | None]
    said: list[str]
    seconds: float


def start(spec: Spec) -> tuple[list[BaseProcess], str]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.distributed.runs"])
    meet = mkdtemp(prefix="run")
    processes = [context.Process(target=main, args=(rank, spec, meet)) for rank in range(spec.ranks)]
    for process in processes:
        process.start()
    return list(processes), meet


def end(processes: Iterable[BaseProcess], meet: str) -> Ended:
    began = time.monotonic()
    codes = []
    for process in processes:
        process.join(100)
        codes.append(process.exitcode)
        if process.is_alive():
            process.kill()
    said = [path.read_text() for path in sorted(Path(meet).glob("*.txt"))]
    return Ended(codes, said, time.monotonic() - began)


def run(folder: Path, **changes: Any) -> Ended:
    return end(*start(Spec(str(folder), **changes)))
