"""A few steps of torchvision's Faster R-CNN on made-up pictures, before ``examples/books_of_a_detector.py``."""

import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn


def batch(step: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two dark pictures with a bright square each, red or green."""
    draw = torch.Generator().manual_seed(step)
    images, targets = [], []
    for _ in range(2):
        label, x, y = (int(torch.randint(high, (), generator=draw)) for high in (2, 56, 56))
        image = 0.2 * torch.rand(3, 96, 96, generator=draw)
        image[label, y : y + 40, x : x + 40] += 0.8
        images.append(image)
        targets.append({"boxes": torch.tensor([[x, y, x + 40.0, y + 40.0]]), "labels": torch.tensor([label + 1])})
    return images, targets


def main(steps: int = 3) -> None:
    """Train a little."""
    torch.manual_seed(0)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=96, max_size=96
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(steps):
        images, targets = batch(step)
        losses = model(images, targets)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        print(f"step {step}: loss {total:.4f}")


if __name__ == "__main__":
    main()
