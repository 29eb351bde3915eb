"""What the books cost: a training step with and without, interleaved, on two workloads.

    python benchmarks/books.py [--repeats 21] [--write benchmarks/results/books.md]

`wide` is a seven-channel output with TextSnake's five terms, `heads` eight heads with a dense loss each, both on a
ResNet-18 with a small decoder, batch 4 of 3 x 256 x 256. Ratios are medians of paired steps: with books over without,
divided by a control (without over without, in the same run). Memory is the peak of torch's CPU allocator in one step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.criterion.samples import five_targets, five_terms

import headwise as hw
from benchmarks.measure import machine, markdown, peak_memory, publish
from headwise import losses

Step = Callable[[], None]


class Trunk(nn.Module):
    """ResNet-18 up to stride 4 features of 128 channels, merged from strides 4 to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torchvision.models.resnet18()
        self.lateral = nn.ModuleList([nn.Conv2d(width, 128, 1) for width in (64, 128, 256, 512)])
        self.smooth = nn.Conv2d(128, 128, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(image))))
        levels = [x := body.layer1(x), x := body.layer2(x), x := body.layer3(x), body.layer4(x)]
        merged = self.lateral[3](levels[3])
        for level in (2, 1, 0):
            merged = self.lateral[level](levels[level]) + nn.functional.interpolate(merged, scale_factor=2.0)
        return self.smooth(merged)


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = Trunk(), nn.Conv2d(128, 7, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"maps": nn.functional.interpolate(self.head(self.trunk(image)), scale_factor=4.0, mode="bilinear")}


def head() -> nn.Module:
    return nn.Sequential(nn.Conv2d(128, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 4, 1))


class Heads(nn.Module):
    def __init__(self, num: int = 8) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.heads = nn.ModuleDict({f"head{i}": head() for i in range(num)})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.trunk(image)
        return {name: head(features) for name, head in self.heads.items()}


def workload(name: str) -> tuple[nn.Module, hw.Criterion, dict[str, Tensor]]:
    torch.manual_seed(0)
    if name == "wide":
        return Wide(), hw.Criterion(five_terms()), five_targets(4, 256)
    network = Heads()
    terms = [hw.Term(head, losses.smooth_l1, output=head, target=head) for head in network.heads]
    return network, hw.Criterion(terms), {head: torch.randn(4, 4, 64, 64) for head in network.heads}


def make_step(network: nn.Module, criterion: hw.Criterion, image: Tensor, targets: dict[str, Tensor]) -> Step:
    def step() -> None:
        network.zero_grad(set_to_none=True)
        criterion(network(image), targets).total.backward()

    return step


def measure(name: str, repeats: int) -> dict[str, float | str | bool]:
    network, criterion, targets = workload(name)
    image = torch.randn(4, 3, 256, 256)
    step = make_step(network, criterion, image, targets)
    network.eval()  # fixed BatchNorm statistics, so that gradients can be compared to the bit

    def booked() -> None:
        with hw.Ledger(criterion, capacity=16):
            step()

    gradients = {}
    for kind, run in (("off", step), ("on", booked)):
        run()
        gradients[kind] = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    equal = all(torch.equal(a, b) for a, b in zip(gradients["off"], gradients["on"], strict=True))
    ledger: hw.Ledger | None = None
    times: dict[str, list[float]] = {"off": [], "on": [], "control": []}
    for number in range(repeats + 2):
        for kind in ("off", "on", "control") if number % 2 else ("control", "on", "off"):
            ledger = hw.Ledger(criterion, capacity=16) if kind == "on" else None
            begin = time.perf_counter()
            step()
            if number > 1:
                times[kind].append(time.perf_counter() - begin)
            if ledger is not None:
                ledger.close()
    paired = statistics.median(a / b for a, b in zip(times["on"], times["off"], strict=True))
    control = statistics.median(a / b for a, b in zip(times["control"], times["off"], strict=True))
    memory = peak_memory(booked) / peak_memory(step)
    return {
        "workload": name,
        "step": f"{statistics.median(times['off']) * 1e3:.0f} ms",
        "on / off": f"{paired:.3f}",
        "control": f"{control:.3f}",
        "corrected": f"{paired / control:.3f}",
        "peak memory": f"{memory:.3f}",
        "equal to the bit": equal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21, help="paired steps, at least 15 for a figure to quote")
    parser.add_argument("--write", type=Path, help="also write the table to this Markdown file")
    options = parser.parse_args()
    torch.set_num_threads(2)
    rows = [measure(name, options.repeats) for name in ("wide", "heads")]
    table = markdown(rows[0], [row.values() for row in rows])
    text = "\n".join([f"`python benchmarks/books.py --repeats {options.repeats}`: {machine()}", "", table, ""])
    publish("# What the books cost\n\n" + text, options.write)


if __name__ == "__main__":
    main()
