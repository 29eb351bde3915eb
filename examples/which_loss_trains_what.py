"""One page on which loss trains what: ResNet-18 with three heads, a few steps on made-up pictures.

Run it with ``python examples/which_loss_trains_what.py [PAGE]``; it needs torchvision and takes a minute on a CPU.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

import headwise as hw
from headwise.attribution import effect, jacobian, trace
from headwise.report.attribution import write_attribution


class ThreeHeads(nn.Module):
    """A ResNet-18 that tells what is seen, where, and how deep; the latter two share a neck."""

    def __init__(self) -> None:
        super().__init__()
        trunk = resnet18()
        self.stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool)
        self.body = nn.Sequential(trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
        self.label_head = nn.Linear(512, 10)
        self.neck = nn.Conv2d(512, 64, 1)
        self.mask_head, self.depth_head = nn.Conv2d(64, 1, 3, padding=1), nn.Conv2d(64, 1, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.body(self.stem(image))
        neck = self.neck(features).relu()
        return {
            "label": self.label_head(features.mean((2, 3))),
            "mask": self.mask_head(neck),
            "depth": self.depth_head(neck),
        }


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="sum")


def binary_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, target, reduction="sum")


def absolute_error(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().sum()


CRITERION = hw.Criterion(
    [
        hw.Term("label", cross_entropy, output="label", target="label"),
        hw.Term("mask", binary_cross_entropy, output="mask", target="mask"),
        hw.Term("depth", absolute_error, output="depth", target="depth", weight=0.2),
    ]
)


def batch(step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures whose brightness, edges and label have something to do with each other."""
    draw = torch.Generator().manual_seed(step)
    image = torch.rand(4, 3, 96, 96, generator=draw)
    label = torch.randint(10, (4,), generator=draw)
    image[:, 0] += label[:, None, None] / 10
    coarse = F.avg_pool2d(image, 32)
    return image, {"label": label, "mask": (coarse[:, 1:2] > 0.5).float(), "depth": 3 - 2 * coarse[:, :1]}


def main(page: str = "which-loss-trains-what.html", steps: int = 12) -> None:
    """Train, measure and write the page."""
    torch.manual_seed(0)
    network = ThreeHeads()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    with hw.Ledger(CRITERION) as ledger:
        for step in range(steps):
            image, targets = batch(step)
            optimizer.zero_grad()
            CRITERION(network(image), targets).total.backward()
            optimizer.step()
        history = ledger.history()

    image, targets = batch(steps)
    outputs = network(image)
    losses = CRITERION(outputs, targets)
    written = write_attribution(
        page,
        trace=trace(losses, network, outputs),
        jacobian=jacobian(losses, network, group="module", gramian=True),
        effect=effect(lambda: CRITERION(network(image), targets), network, optimizer),
        history=history,
        subtitle=f"ResNet-18 with three heads, after {steps} steps",
    )
    print(written)


if __name__ == "__main__":
    main(*sys.argv[1:2])
