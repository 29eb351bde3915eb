"""torchvision's reference loop for detection on made-up pictures; run it with ``headwise run``."""

import math
import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

Pictures = Iterable[tuple[list[Tensor], list[dict[str, Tensor]]]]


def pictures(number: int) -> Pictures:
    """Two dark pictures with a bright square each, red or green."""
    for step in range(number):
        draw = torch.Generator().manual_seed(step)
        images, targets = [], []
        for _ in range(2):
            label, x, y = (int(torch.randint(high, (), generator=draw)) for high in (2, 56, 56))
            image = 0.2 * torch.rand(3, 96, 96, generator=draw)
            image[label, y : y + 40, x : x + 40] += 0.8
            images.append(image)
            targets.append({"boxes": torch.tensor([[x, y, x + 40.0, y + 40.0]]), "labels": torch.tensor([label + 1])})
        yield images, targets


def reduce_dict(input_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses for the log, averaged over processes, of which there is one here."""
    with torch.inference_mode():
        return {name: value.clone() for name, value in input_dict.items()}


def train_one_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, data_loader: Pictures, scaler: torch.amp.GradScaler | None
) -> None:
    """As in the reference, without its autocast: a CPU without bfloat16 of its own may take minutes for a step."""
    model.train()
    for images, targets in data_loader:
        loss_dict = model(images, targets)
        losses = sum(loss for loss in loss_dict.values())
        loss_dict_reduced = reduce_dict(loss_dict)
        losses_reduced = sum(loss for loss in loss_dict_reduced.values())
        loss_value = float(losses_reduced)
        if not math.isfinite(loss_value):
            print(f"Loss is {loss_value}, stopping training")
            print(loss_dict_reduced)
            sys.exit(1)
        optimizer.zero_grad()
        if scaler is not None:
            scaler.scale(losses).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            losses.backward()
            optimizer.step()


def main(steps: int = 2) -> None:
    """Train a little."""
    torch.manual_seed(0)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=96, max_size=96, box_batch_size_per_image=32
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    train_one_epoch(model, optimizer, pictures(steps), scaler)
    torch.save(model.state_dict(), "weights.pt")


if __name__ == "__main__":
    main()
