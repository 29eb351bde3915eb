"""The books of a network of three outputs, declared as Keras does it: ``{output: loss}``.

Run it with ``python examples/books_of_three_outputs.py``. The lines marked ``headwise`` are all that was changed;
``examples/before`` has the script as it was.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import headwise as hw  # headwise

criterion = hw.Criterion(  # headwise
    {"label": nn.CrossEntropyLoss(), "mask": nn.BCEWithLogitsLoss(), "depth": nn.L1Loss()},  # headwise
    weights={"depth": 0.2},  # headwise
)  # headwise


class ThreeOutputs(nn.Module):
    """Tells of a picture what is seen, where, and how deep."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU())
        self.label, self.mask, self.depth = nn.Linear(16, 10), nn.Conv2d(16, 1, 1), nn.Conv2d(16, 1, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.trunk(image)
        label = self.label(features.mean((2, 3)))
        return {"label": label, "mask": self.mask(features), "depth": self.depth(features)}


def batch(step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures whose brightness tells the label, the mask and the depth."""
    draw = torch.Generator().manual_seed(step)
    label = torch.randint(10, (8,), generator=draw)
    image = torch.rand(8, 3, 16, 16, generator=draw)
    image[:, 0] += label[:, None, None] / 10
    gray = F.avg_pool2d(image, 5, stride=1, padding=2)
    return image, {"label": label, "mask": (gray[:, 1:2] > 0.5).float(), "depth": 3 - 2 * gray[:, :1]}


def main(steps: int = 3) -> None:
    """Train a little."""
    torch.manual_seed(0)
    network = ThreeOutputs()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    ledger = hw.Ledger(criterion)  # headwise
    for step in range(steps):
        image, targets = batch(step)
        loss = criterion(network(image), targets).total  # headwise
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss:.4f}")
    print(ledger.read())  # headwise


if __name__ == "__main__":
    main()
