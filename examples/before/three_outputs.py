"""A few steps of a network of three outputs, before ``examples/books_of_three_outputs.py``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    for step in range(steps):
        image, targets = batch(step)
        outputs = network(image)
        label = F.cross_entropy(outputs["label"], targets["label"])
        mask = F.binary_cross_entropy_with_logits(outputs["mask"], targets["mask"])
        depth = F.l1_loss(outputs["depth"], targets["depth"])
        loss = label + mask + 0.2 * depth
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss:.4f}")


if __name__ == "__main__":
    main()
