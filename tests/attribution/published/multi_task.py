"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn


class MultiTask(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.heads = nn.ModuleDict({"seg": nn.Linear(8, 4), "depth": nn.Linear(8, 1), "normal": nn.Linear(8, 3)})

    def forward(self, x):
        feature = self.backbone(x)
        return {name: head(feature) for name, head in self.heads.items()}


torch.manual_seed(0)
model = MultiTask()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loss_fns = {"seg": nn.CrossEntropyLoss(), "depth": nn.L1Loss(), "normal": nn.MSELoss()}
task_weights = {"seg": 1.0, "depth": 0.5, "normal": 10.0}
for _ in range(3):
    x = torch.randn(5, 6)
    targets = {"seg": torch.randint(4, (5,)), "depth": torch.randn(5, 1), "normal": torch.randn(5, 3)}
    outputs = model(x)
    losses = {task: loss_fns[task](outputs[task], targets[task]) for task in outputs}
    total = sum(task_weights[task] * losses[task] for task in losses)
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
torch.save(model.state_dict(), "weights.pt")
