"""The books of a segmenter with an auxiliary head: torchvision's DeepLabV3, random weights.

Run it with ``python examples/books_of_a_segmenter.py``; it needs torchvision. The lines marked ``headwise`` are all
that was changed; ``examples/before`` has the script as it was.
"""

import torch
from torch import Tensor, nn  # headwise
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

import headwise as hw  # headwise

IGNORED = 255

PER_PIXEL = hw.losses.from_torch(nn.CrossEntropyLoss(ignore_index=IGNORED))  # headwise
criterion = hw.Criterion([  # headwise
    hw.Term("out", *PER_PIXEL, output="out", target="target"),  # headwise
    hw.Term("aux", *PER_PIXEL, output="aux", target="target", weight=0.5),  # headwise
])  # headwise  # fmt: skip


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Two pictures, and what is bright in them; nobody labeled the border."""
    draw = torch.Generator().manual_seed(step)
    images = torch.rand(2, 3, 8, 8, generator=draw).repeat_interleave(8, 2).repeat_interleave(8, 3)
    labels = (images[:, 0] > 0.5).long() + (images[:, 1] > 0.8).long()
    labels[:, :4] = IGNORED
    return images, labels


def main(steps: int = 3) -> None:
    """Train a little."""
    torch.manual_seed(0)
    model = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3, aux_loss=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    ledger = hw.Ledger(criterion)  # headwise
    for step in range(steps):
        images, labels = batch(step)
        loss = criterion(model(images), labels).total  # headwise
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss:.4f}")
    print(ledger.read())  # headwise


if __name__ == "__main__":
    main()
