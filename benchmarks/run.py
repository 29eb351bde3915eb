"""What `headwise run` costs: a step of a script that is not booked, and one that is, beside the same step without us.

    python -m benchmarks.run [--repeats 21] [--write benchmarks/results/run.md]

`small` is three heads on a convolution of 16 channels, 8 pictures of 16 x 16 (`examples/before/three_outputs.py`);
`resnet` three heads on torchvision's ResNet-18, 8 pictures of 96 x 96. Each kind of step runs in turn with the plain
one; times are the process's CPU time with one thread, so that other work on the machine counts
for little: each is the tenth part from below of its times, over that of the plain step's. `control` is plain again.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from benchmarks.measure import machine, markdown, publish
from headwise.attribution import wrap
from headwise.attribution.run.script import ScriptBooks


class ThreeHeads(nn.Module):
    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.label, self.mask, self.depth = nn.Linear(width, 10), nn.Conv2d(width, 1, 1), nn.Conv2d(width, 1, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        feature = self.trunk(image)
        pooled = feature.mean((2, 3))
        return {"label": self.label(pooled), "mask": self.mask(feature), "depth": self.depth(feature)}


def losses_of(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "label": F.cross_entropy(outputs["label"], targets["label"]),
        "mask": F.binary_cross_entropy_with_logits(outputs["mask"], torch.zeros_like(outputs["mask"])),
        "depth": F.l1_loss(outputs["depth"], torch.ones_like(outputs["depth"])),
    }


class Script:
    """A training script's step."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        body = torchvision.models.resnet18()
        trunk, width, size = nn.Sequential(*list(body.children())[:-2]), 512, 96
        if name == "small":
            trunk, width, size = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.ReLU()), 16, 16
        self.network = ThreeHeads(trunk, width)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3)
        self.image = torch.randn(8, 3, size, size)
        self.targets = {"label": torch.randint(10, (8,))}

    def step(self, criterion: Callable[..., dict[str, Tensor]] = losses_of) -> None:
        self.optimizer.zero_grad()
        losses = criterion(self.network(self.image), self.targets)
        total = losses["label"] + losses["mask"] + 0.2 * losses["depth"]
        total.backward()
        self.optimizer.step()


def timed(step: Callable[[], None]) -> float:
    begin = time.process_time()
    step()
    return time.process_time() - begin


def under_us(script: Script, every: int) -> float:
    """The seventh step of a script under us: the first pass of a place is always booked, and five steps are noted."""
    with ScriptBooks(every, None, lambda step, books: None):
        for _ in range(6):
            script.step()
        return timed(script.step)


def wrapped(script: Script) -> float:
    criterion = wrap(losses_of)
    script.step(criterion)
    taken = timed(lambda: script.step(criterion))
    criterion.ledger.close()
    return taken


def measure(name: str, repeats: int) -> dict[str, str]:
    script = Script(name)
    kinds: dict[str, Callable[[], float]] = {
        "control": lambda: timed(script.step),
        "not booked": lambda: under_us(script, 1000),
        "booked": lambda: under_us(script, 1),
        "wrap": lambda: wrapped(script),
    }
    times: dict[str, list[float]] = {"plain": [], **{kind: [] for kind in kinds}}
    for _ in range(repeats):
        for kind, run in kinds.items():
            script.step()
            times["plain"].append(timed(script.step))
            times[kind].append(run())
    # Of a single time there are no tenths.
    low = {kind: statistics.quantiles(each, n=10)[0] if len(each) > 1 else each[0] for kind, each in times.items()}
    step = low.pop("plain")
    found = {kind: each / step for kind, each in low.items()}
    return {
        "workload": name,
        "step": f"{step * 1e3:.1f} ms",
        **{kind: f"{ratio:.3f}" for kind, ratio in found.items()},
        "not booked, more": f"{(found['not booked'] - found['control']) * step * 1e6:+.0f} us",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21, help="pairs of steps, at least 15 for a figure to quote")
    parser.add_argument("--write", type=Path, help="also write the table to this Markdown file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure("small", 10 * options.repeats), measure("resnet", options.repeats)]
    table = markdown(rows[0], [row.values() for row in rows])
    text = "\n".join([f"`python -m benchmarks.run --repeats {options.repeats}`: {machine()}", "", table, ""])
    publish("# What `headwise run` costs\n\n" + text, options.write)


if __name__ == "__main__":
    main()
