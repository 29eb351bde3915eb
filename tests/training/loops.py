"""A network with dropout, two terms and seven batches, to be trained in any loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import headwise as hw
from headwise.runs.entries import QUANTITIES

TERMS = ("height", "slope")
NUM_BATCHES, EVERY, MICRO_BATCHES = 7, 2, 2  # four steps an epoch, the last with one micro-batch


def squares(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


def magnitudes(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().sum()


def make_criterion() -> hw.Criterion:
    return hw.Criterion(
        [
            hw.Term("height", squares, output="y[:, 0:1]", target="height"),
            hw.Term("slope", magnitudes, output="y[:, 1:2]", target="slope", weight=0.5),
        ],
        unread=["x"],
    )


class Network(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.body(x)}


def make_network(dropout: float = 0.2) -> Network:
    torch.manual_seed(3)
    return Network(dropout)


def make_samples(num_batches: int = NUM_BATCHES) -> Any:
    """A list of samples, which every loop takes for a data set."""
    draw = torch.Generator().manual_seed(5)
    return [
        {name: torch.randn(size, generator=draw) for name, size in (("x", 3), ("height", 1), ("slope", 1))}
        for _ in range(4 * num_batches)
    ]


def board(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """What TensorBoard finds in all event files under a folder: key -> (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, Any]]] = {}
    for place in {file.parent for file in folder.rglob("events.out.tfevents*")}:
        events = EventAccumulator(str(place)).Reload()
        for key in events.Tags()["scalars"]:
            found[key] = [(event.step, event.value) for event in events.Scalars(key)]
    return found


KEYS = {f"headwise/{term}/{what}" for term in TERMS for what in QUANTITIES} | {"headwise/total"}


def books_by_hand(network: Network, batches: list[dict[str, Tensor]]) -> dict[str, tuple[float, float]]:
    """Value and gradient norm of every term over micro-batches whose gradients are averaged; dropout off."""
    criterion = make_criterion()
    values, energies = dict.fromkeys(TERMS, 0.0), dict.fromkeys(TERMS, 0.0)
    for batch in batches:
        outputs = network(batch["x"])
        for name, entry in criterion(outputs, batch).items():
            (gradient,) = torch.autograd.grad(entry.weighted / len(batches), outputs["y"], retain_graph=True)
            values[name] += float(entry.value.detach()) / len(batches)
            energies[name] += float(gradient.double().square().sum())
    return {name: (values[name], energies[name] ** 0.5) for name in TERMS}
