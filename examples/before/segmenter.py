"""A few steps of torchvision's DeepLabV3 on made-up pictures, before ``examples/books_of_a_segmenter.py``."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

IGNORED = 255


def criterion(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    losses = {name: F.cross_entropy(output, labels, ignore_index=IGNORED) for name, output in outputs.items()}
    return losses["out"] + 0.5 * losses["aux"]


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
    for step in range(steps):
        images, labels = batch(step)
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss:.4f}")


if __name__ == "__main__":
    main()
