"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn


def mixup_criterion(criterion, pred, y_a, y_b, lam):
    return lam * criterion(pred, y_a) + (1 - lam) * criterion(pred, y_b)


torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
for _ in range(3):
    inputs, targets = torch.randn(6, 6), torch.randint(4, (6,))
    lam, index = 0.3, torch.randperm(6)
    inputs = lam * inputs + (1 - lam) * inputs[index]
    targets_a, targets_b = targets, targets[index]
    outputs = net(inputs)
    loss = mixup_criterion(criterion, outputs, targets_a, targets_b, lam)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save(net.state_dict(), "weights.pt")
