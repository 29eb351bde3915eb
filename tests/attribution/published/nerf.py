"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn

torch.manual_seed(0)
coarse = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
fine = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.Adam([*coarse.parameters(), *fine.parameters()], lr=5e-4)
img2mse = lambda x, y: torch.mean((x - y) ** 2)  # noqa: E731
for _ in range(3):
    rays, target_s = torch.randn(7, 3), torch.rand(7, 3)
    extras = {"rgb0": coarse(rays).sigmoid()}
    rgb = fine(rays).sigmoid()
    optimizer.zero_grad()
    img_loss = img2mse(rgb, target_s)
    loss = img_loss
    if "rgb0" in extras:
        img_loss0 = img2mse(extras["rgb0"], target_s)
        loss = loss + img_loss0
    loss.backward()
    optimizer.step()
torch.save([coarse.state_dict(), fine.state_dict()], "weights.pt")
