"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn


class ReID(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.classifier = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), nn.Linear(4, 3)

    def forward(self, x):
        feat = self.base(x)
        return self.classifier(feat), feat


torch.manual_seed(0)
model = ReID()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
xent, triplet = nn.CrossEntropyLoss(label_smoothing=0.1), nn.TripletMarginLoss(margin=0.3)
for _ in range(3):
    img, target = torch.randn(9, 6), torch.arange(9) % 3
    score, feat = model(img)
    anchor, positive, negative = feat[0:3], feat[3:6], feat[[7, 8, 6]]
    id_loss, tri_loss = xent(score, target), triplet(anchor, positive, negative)
    loss = id_loss + 0.5 * tri_loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save(model.state_dict(), "weights.pt")
