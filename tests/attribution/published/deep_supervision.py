"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn


class NestedUNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv0, self.conv1, self.conv2 = (nn.Conv2d(i, 4, 3, padding=1) for i in (1, 4, 4))
        self.final1, self.final2, self.final3 = (nn.Conv2d(4, 1, 1) for _ in range(3))

    def forward(self, x):
        x0 = self.conv0(x).relu()
        x1 = self.conv1(x0).relu()
        x2 = self.conv2(x1).relu()
        return [self.final1(x0), self.final2(x1), self.final3(x2)]


class BCEDiceLoss(nn.Module):
    def forward(self, input, target):
        bce = nn.functional.binary_cross_entropy_with_logits(input, target)
        input = torch.sigmoid(input).view(len(target), -1)
        target = target.view(len(target), -1)
        dice = (2.0 * (input * target).sum(1) + 1e-5) / (input.sum(1) + target.sum(1) + 1e-5)
        dice = 1 - dice.sum() / len(target)
        return 0.5 * bce + dice


torch.manual_seed(0)
model, criterion = NestedUNet(), BCEDiceLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    input, target = torch.randn(2, 1, 8, 8), (torch.rand(2, 1, 8, 8) > 0.5).float()
    outputs = model(input)
    loss = 0
    for output in outputs:
        loss += criterion(output, target)
    loss /= len(outputs)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save(model.state_dict(), "weights.pt")
