"""In the manner of published code, unchanged for `headwise run`."""

import torch
import torch.nn.functional as F
from torch import nn


class MultiBoxLoss(nn.Module):
    def forward(self, predictions, targets):
        loc_data, conf_data = predictions
        loc_t, conf_t = targets
        pos = conf_t > 0
        num_pos = pos.sum()
        loss_l = F.smooth_l1_loss(loc_data[pos], loc_t[pos], reduction="sum")
        loss_all = F.cross_entropy(conf_data.flatten(0, 1), conf_t.flatten(), reduction="none").view_as(conf_t)
        mined = loss_all.detach().masked_fill(pos, 0.0)
        _, idx_rank = mined.sort(1, descending=True)[1].sort(1)
        neg = idx_rank < 3 * pos.sum(1, keepdim=True)
        loss_c = loss_all[pos | neg].sum()
        N = num_pos.clamp(min=1).float()
        loss_l /= N
        loss_c /= N
        return loss_l, loss_c


torch.manual_seed(0)
backbone, loc, conf = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 3)
net = nn.ModuleList([backbone, loc, conf])
criterion = MultiBoxLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
for _ in range(3):
    x = backbone(torch.randn(2, 9, 6)).relu()
    out = loc(x), conf(x)
    conf_t = torch.zeros(2, 9, dtype=torch.long)
    conf_t[:, :3] = torch.randint(1, 3, (2, 3))
    optimizer.zero_grad()
    loss_l, loss_c = criterion(out, (torch.randn(2, 9, 4), conf_t))
    loss = loss_l + loss_c
    loss.backward()
    optimizer.step()
torch.save(net.state_dict(), "weights.pt")
