"""In the manner of published code, unchanged for `headwise run`."""

import torch
import torch.nn.functional as F
from torch import nn


class VectorQuantizer(nn.Module):
    def __init__(self, num_embeddings=5, embedding_dim=3, commitment_cost=0.25):
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, embedding_dim)
        self.commitment_cost = commitment_cost

    def forward(self, inputs):
        distances = torch.cdist(inputs, self.embedding.weight)
        encoding_indices = distances.argmin(1)
        quantized = self.embedding(encoding_indices)
        e_latent_loss = F.mse_loss(quantized.detach(), inputs)
        q_latent_loss = F.mse_loss(quantized, inputs.detach())
        loss = q_latent_loss + self.commitment_cost * e_latent_loss
        quantized = inputs + (quantized - inputs).detach()
        return loss, quantized


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.vq_vae, self.decoder = nn.Linear(6, 3), VectorQuantizer(), nn.Linear(3, 6)

    def forward(self, x):
        loss, quantized = self.vq_vae(self.encoder(x))
        return loss, self.decoder(quantized)


torch.manual_seed(0)
model = Model()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(3):
    data = torch.randn(8, 6)
    optimizer.zero_grad()
    vq_loss, data_recon = model(data)
    recon_error = F.mse_loss(data_recon, data) / 0.06
    loss = recon_error + vq_loss
    loss.backward()
    optimizer.step()
torch.save(model.state_dict(), "weights.pt")
