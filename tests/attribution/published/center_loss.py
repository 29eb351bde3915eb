"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn


class CenterLoss(nn.Module):
    def __init__(self, num_classes=3, feat_dim=4):
        super().__init__()
        self.centers = nn.Parameter(torch.randn(num_classes, feat_dim))

    def forward(self, x, labels):
        distmat = torch.cdist(x, self.centers).pow(2)
        mask = labels.unsqueeze(1).eq(torch.arange(3))
        dist = distmat * mask.float()
        return dist.clamp(min=1e-12, max=1e12).sum() / len(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.fc = nn.Sequential(nn.Linear(6, 8), nn.PReLU(), nn.Linear(8, 4)), nn.Linear(4, 3)

    def forward(self, x):
        features = self.features(x)
        return features, self.fc(features)


torch.manual_seed(0)
model, criterion_xent, criterion_cent = Net(), nn.CrossEntropyLoss(), CenterLoss()
optimizer_model = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
optimizer_centloss = torch.optim.SGD(criterion_cent.parameters(), lr=0.5)
weight_cent = 0.1
for _ in range(3):
    data, labels = torch.randn(6, 6), torch.randint(3, (6,))
    features, outputs = model(data)
    loss_xent = criterion_xent(outputs, labels)
    loss_cent = criterion_cent(features, labels)
    loss_cent *= weight_cent
    loss = loss_xent + loss_cent
    optimizer_model.zero_grad()
    optimizer_centloss.zero_grad()
    loss.backward()
    optimizer_model.step()
    for param in criterion_cent.parameters():
        param.grad.data *= 1.0 / weight_cent
    optimizer_centloss.step()
torch.save([model.state_dict(), criterion_cent.state_dict()], "weights.pt")
