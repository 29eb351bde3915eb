"""How long an audit takes: a ResNet-50 with a DETR-like criterion of nine terms, 2 batches of 2 x 3 x 128 x 128.

    python benchmarks/audit.py [--repeats 3] [--threads 2] [--clock wall|cpu] [--write benchmarks/results/audit.md]

The first audit of a process pays for whatever it imports; the ratio is to a training step (forward and backward pass of
the total) on the same batch, which the same run measures.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import headwise as hw
from benchmarks.measure import Options, markdown

LAYERS, QUERIES, CLASSES = 3, 20, 7
WEIGHTS = {"ce": 1.0, "bbox": 5.0, "giou": 2.0}


class Detr(nn.Module):
    """A ResNet-50, one encoder and three decoder layers of width 128, boxes and classes after each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*list(torchvision.models.resnet50().children())[:-2])
        self.project = nn.Conv2d(2048, 128, 1)
        self.encoder = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(128, 4, 256, batch_first=True) for _ in range(LAYERS))
        self.queries = nn.Parameter(torch.randn(QUERIES, 128))
        self.label, self.box = nn.Linear(128, CLASSES + 1), nn.Linear(128, 4)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        memory = self.encoder(self.project(self.body(images)).flatten(2).transpose(1, 2))
        state, found = self.queries.expand(len(images), -1, -1), []
        for layer in self.decoder:
            state = layer(state, memory)
            found.append({"logits": self.label(state), "boxes": self.box(state).sigmoid()})
        return found


def corners(boxes: Tensor) -> Tensor:
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], -1)


def criterion(outputs: list[dict[str, Tensor]], batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Class, box and overlap losses of every decoder layer; query k is for object k."""
    losses = {}
    for number, layer in enumerate(outputs):
        tail = f"_{number}" if number + 1 < len(outputs) else ""
        objects = batch["boxes"].shape[1]
        found, wanted = layer["boxes"][:, :objects], batch["boxes"]
        labels = torch.full((len(found), QUERIES), CLASSES)
        labels[:, :objects] = batch["labels"]
        overlap = torchvision.ops.generalized_box_iou_loss(corners(found), corners(wanted), reduction="mean")
        losses[f"loss_ce{tail}"] = F.cross_entropy(layer["logits"].transpose(1, 2), labels)
        losses[f"loss_bbox{tail}"] = F.l1_loss(found, wanted)
        losses[f"loss_giou{tail}"] = overlap
    return losses


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The weighted sum."""
    parts = [WEIGHTS[name.removeprefix("loss_").split("_")[0]] * loss for name, loss in losses.items()]
    return torch.stack(parts).sum()


def batch() -> dict[str, Tensor]:
    """Two images with three objects each."""
    boxes = torch.cat([torch.rand(2, 3, 2), 0.1 + 0.3 * torch.rand(2, 3, 2)], -1)
    return {"input": torch.randn(2, 3, 128, 128), "boxes": boxes, "labels": torch.randint(CLASSES, (2, 3))}


def main() -> None:
    """Measure, and print the table."""
    options = Options.read(__doc__, repeats=3)
    torch.manual_seed(0)
    model, batches = Detr(), [batch(), batch()]

    def audit() -> None:
        hw.attribution.audit({"model": model, "batches": batches, "criterion": criterion, "total": total})

    def step() -> None:
        total(criterion(model(batches[0]["input"]), batches[0])).backward()
        model.zero_grad()

    taken = options.seconds({"audit": audit, "step": step})
    later = taken["audit"][1:] or taken["audit"]
    rows = [
        ("audit, the first of a process", f"{taken['audit'][0]:.1f}", ""),
        ("audit, the median of the others", f"{statistics.median(later):.1f}", ""),
        ("a training step", f"{statistics.median(taken['step']):.2f}", ""),
    ]
    unit = statistics.median(taken["step"])
    table = markdown(("what", "seconds", "steps"), [(a, b, f"{float(b) / unit:.0f}") for a, b, _ in rows])
    options.publish("An audit of nine terms", table)


if __name__ == "__main__":
    main()
