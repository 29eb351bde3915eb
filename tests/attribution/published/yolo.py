"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn


class ComputeLoss:
    def __init__(self):
        self.hyp = {"box": 0.05, "obj": 1.0, "cls": 0.5}
        self.BCEcls = self.BCEobj = nn.BCEWithLogitsLoss()
        self.balance = [4.0, 1.0]

    def __call__(self, p, targets):
        lcls, lbox, lobj = torch.zeros(1), torch.zeros(1), torch.zeros(1)
        for i, pi in enumerate(p):
            pbox, pobj, pcls = pi.split((4, 1, 3), 1)
            lbox += (1.0 - (-(pbox - targets["box"]).abs().sum(1)).exp()).mean()
            lcls += self.BCEcls(pcls, targets["cls"])
            lobj += self.BCEobj(pobj[:, 0], targets["obj"]) * self.balance[i]
        lbox *= self.hyp["box"]
        lobj *= self.hyp["obj"]
        lcls *= self.hyp["cls"]
        bs = len(targets["obj"])
        return (lbox + lobj + lcls) * bs, torch.cat((lbox, lobj, lcls)).detach()


class Detect(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(6, 8)
        self.m = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x):
        x = self.backbone(x).relu()
        return [m(x) for m in self.m]


torch.manual_seed(0)
model, compute_loss = Detect(), ComputeLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range(3):
    targets = {"box": torch.randn(5, 4), "obj": torch.rand(5), "cls": torch.rand(5, 3)}
    pred = model(torch.randn(5, 6))
    loss, loss_items = compute_loss(pred, targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
torch.save(model.state_dict(), "weights.pt")
