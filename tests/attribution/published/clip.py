"""In the manner of published code, unchanged for `headwise run`."""

import torch
import torch.nn.functional as F
from torch import nn


class CLIP(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.logit_scale = nn.Parameter(torch.ones([]) * 2.6)

    def forward(self, image, text):
        image_features = F.normalize(self.visual(image), dim=-1)
        text_features = F.normalize(self.text(text), dim=-1)
        logits_per_image = self.logit_scale.exp() * image_features @ text_features.t()
        return logits_per_image, logits_per_image.t()


torch.manual_seed(0)
model = CLIP()
loss_img, loss_txt = nn.CrossEntropyLoss(), nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-5)
for _ in range(3):
    optimizer.zero_grad()
    logits_per_image, logits_per_text = model(torch.randn(5, 6), torch.randn(5, 5))
    ground_truth = torch.arange(5)
    total_loss = (loss_img(logits_per_image, ground_truth) + loss_txt(logits_per_text, ground_truth)) / 2
    total_loss.backward()
    optimizer.step()
torch.save(model.state_dict(), "weights.pt")
