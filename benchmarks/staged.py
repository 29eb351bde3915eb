"""Heads run one after another: peak memory and time of a step, beside the plain step and activation checkpointing.

    python benchmarks/staged.py [--repeats 9] [--write benchmarks/results/staged.md]

Eight heads on a ResNet-18 with a small decoder: `retinanet`, four 3 x 3 convolutions of 256 channels each, and
`hourglass`, two stacked hourglasses each, with an output a stack. Memory is that of activations and whatever else lives
in a step beside parameters and their gradients, at features of 4 x 256 x 64 x 64; it is counted exactly, storage by
storage, on tensors without data. Time is processor time of one thread on smaller features, medians of steps that take
turns. Gradients are compared in float32 as the largest relative difference of a parameter's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import headwise as hw
from benchmarks.books import Trunk
from benchmarks.measure import StoragePeak, machine, markdown, publish
from headwise import losses

NUM_HEADS, NUM_CLASSES = 8, 36
Outputs = list[Tensor]


class Tower(nn.Module):
    """RetinaNet's head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [layer for _ in range(4) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, NUM_CLASSES, 3, padding=1))

    def forward(self, features: Tensor) -> Outputs:
        return [self.layers(features)]


def convolution(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Hourglass(nn.Module):
    def __init__(self, width: int, order: int = 3) -> None:
        super().__init__()
        self.up, self.back = convolution(width), convolution(width)
        self.down = nn.Sequential(nn.MaxPool2d(2), convolution(width))
        self.inner = Hourglass(width, order - 1) if order > 1 else convolution(width)

    def forward(self, features: Tensor) -> Tensor:
        low = self.back(self.inner(self.down(features)))
        return self.up(features) + nn.functional.interpolate(low, scale_factor=2.0)


class Stacked(nn.Module):
    """Two hourglasses, one behind the other, with an output each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stacks = nn.ModuleList([nn.Sequential(Hourglass(width), convolution(width)) for _ in range(2)])
        self.outputs = nn.ModuleList([nn.Conv2d(width, NUM_CLASSES, 1) for _ in range(2)])

    def forward(self, features: Tensor) -> Outputs:
        found = []
        for stack, output in zip(self.stacks, self.outputs, strict=True):
            features = features + stack(features)
            found.append(output(features))
        return found


class Network(nn.Module):
    def __init__(self, head: Callable[[int], nn.Module], width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(Trunk(), nn.Conv2d(128, width, 3, padding=1))
        self.heads = nn.ModuleDict({f"head{i}": head(width) for i in range(NUM_HEADS)})


Batch = tuple[Tensor, dict[str, Tensor]]


def plain(network: Network, criterion: hw.Criterion, batch: Batch) -> None:
    features = network.trunk(batch[0])
    criterion({name: head(features) for name, head in network.heads.items()}, batch[1]).total.backward()


def checkpointed(network: Network, criterion: hw.Criterion, batch: Batch) -> None:
    features = network.trunk(batch[0])
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    criterion({name: again(head, features) for name, head in network.heads.items()}, batch[1]).total.backward()


def staged(network: Network, criterion: hw.Criterion, batch: Batch) -> None:
    hw.backward.staged(criterion, network.trunk(batch[0]), dict(network.heads.items()), batch[1])


WAYS = {"plain": plain, "staged": staged, "checkpointed heads": checkpointed}


def problem(head: Callable[[int], nn.Module], num: int, size: int, width: int) -> tuple[Network, hw.Criterion, Batch]:
    torch.manual_seed(0)
    network = Network(head, width)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    terms = [hw.Term(name, losses.smooth_l1, output=f"{name}[*]", target=name) for name in network.heads]
    targets = {name: torch.randn(num, NUM_CLASSES, size, size) for name in network.heads}
    return network, hw.Criterion(terms), (torch.randn(num, 3, 4 * size, 4 * size), targets)


def memory(head: Callable[[int], nn.Module], way: Callable[..., None]) -> float:
    """Peak in MB at 4 x 256 x 64 x 64."""
    with FakeTensorMode():
        arguments = problem(head, 4, 64, 256)
        with StoragePeak() as counted:
            way(*arguments)
    return counted.peak / 1e6


def compare(head: Callable[[int], nn.Module], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Processor time relative to the plain step, and the largest relative difference of a gradient."""
    network, criterion, batch = problem(head, 2, 16, 256)
    gradients, times = {}, {name: [] for name in WAYS}  # type: dict[str, list[Tensor]], dict[str, list[float]]
    for number in range(repeats + 1):
        for name, way in WAYS.items() if number % 2 else reversed(WAYS.items()):
            network.zero_grad(set_to_none=False)
            network.eval()  # fixed statistics, so that a recomputed head is the same head
            begin = time.process_time()
            way(network, criterion, batch)
            times[name].append(time.process_time() - begin)
            gradients[name] = [each.grad.clone() for each in network.parameters() if each.grad is not None]
    ratios = {
        name: statistics.median(a / b for a, b in zip(each[1:], times["plain"][1:], strict=True))
        for name, each in times.items()
    }
    apart = {name: max(map(_apart, each, gradients["plain"])) for name, each in gradients.items()}
    return ratios, apart


def _apart(found: Tensor, wanted: Tensor) -> float:
    norm = float(wanted.norm())
    return float((found - wanted).norm()) / norm if norm else 0.0


def measure(name: str, head: Callable[[int], nn.Module], repeats: int) -> list[dict[str, Any]]:
    peaks = {way: memory(head, run) for way, run in WAYS.items()}
    ratios, apart = compare(head, repeats)
    return [
        {
            "heads": name,
            "step": way,
            "peak memory": f"{peaks[way]:.0f} MB",
            "of plain": f"{peaks[way] / peaks['plain']:.2f}",
            "time / plain": f"{ratios[way]:.2f}",
            "gradients apart": f"{apart[way]:.1e}",
        }
        for way in WAYS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="timed steps of each way")
    parser.add_argument("--write", type=Path, help="also write the table to this Markdown file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row
        for name, head in (("retinanet", Tower), ("hourglass", Stacked))
        for row in measure(name, head, options.repeats)
    ]
    table = markdown(rows[0], [row.values() for row in rows])
    text = "\n".join([f"`python benchmarks/staged.py --repeats {options.repeats}`: {machine()}", "", table, ""])
    publish("# Heads one after another\n\n" + text, options.write)


if __name__ == "__main__":
    main()
