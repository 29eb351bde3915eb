"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn


class Tacotron2Loss(nn.Module):
    def forward(self, model_output, targets):
        mel_target, gate_target = targets[0], targets[1]
        mel_out, mel_out_postnet, gate_out = model_output
        mel_loss = nn.MSELoss()(mel_out, mel_target) + nn.MSELoss()(mel_out_postnet, mel_target)
        gate_loss = nn.BCEWithLogitsLoss()(gate_out.view(-1, 1), gate_target.view(-1, 1))
        return mel_loss + gate_loss


class Tacotron2(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.gate_layer = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 1)
        self.postnet = nn.Linear(5, 5)

    def forward(self, x):
        h = self.encoder(x).tanh()
        mel_outputs = self.decoder(h)
        return mel_outputs, mel_outputs + self.postnet(mel_outputs), self.gate_layer(h)


torch.manual_seed(0)
model, criterion = Tacotron2(), Tacotron2Loss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
for _ in range(3):
    model.zero_grad()
    y_pred = model(torch.randn(4, 6))
    loss = criterion(y_pred, (torch.randn(4, 5), torch.rand(4, 1)))
    reduced_loss = loss.item()
    loss.backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
torch.save(model.state_dict(), "weights.pt")
