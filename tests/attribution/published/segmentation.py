"""In the manner of published code, unchanged for `headwise run`."""

from collections import OrderedDict

import torch
from torch import nn


class FCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3, padding=1)
        self.classifier = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))
        self.aux_classifier = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        features = self.backbone(x).relu()
        result = OrderedDict()
        result["out"] = self.classifier(features)
        result["aux"] = self.aux_classifier(features)
        return result


def criterion(inputs, target):
    losses = {}
    for name, x in inputs.items():
        losses[name] = nn.functional.cross_entropy(x, target, ignore_index=255)
    if len(losses) == 1:
        return losses["out"]
    return losses["out"] + 0.5 * losses["aux"]


def train_one_epoch(model, criterion, optimizer, scaler=None):
    model.train()
    for step in range(3):
        image, target = torch.randn(2, 3, 8, 8), torch.randint(5, (2, 8, 8))
        target[:, 0] = 255
        with torch.amp.autocast("cpu", enabled=scaler is not None):
            output = model(image)
            loss = criterion(output, target)
        optimizer.zero_grad()
        if scaler is not None and step < 2:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()


torch.manual_seed(0)
model = FCN()
train_one_epoch(model, criterion, torch.optim.SGD(model.parameters(), lr=0.01), torch.amp.GradScaler("cpu", 64.0))
torch.save(model.state_dict(), "weights.pt")
