"""A few steps of a generator and a discriminator, in the manner of a tutorial; run it with ``headwise run``."""

import torch
from torch import nn

torch.manual_seed(0)
generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
discriminator = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
criterion = nn.BCEWithLogitsLoss()
optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
optimizer_g = torch.optim.Adam(generator.parameters(), lr=1e-3)

for _ in range(6):
    real = torch.randn(16, 2) + 2
    fake = generator(torch.randn(16, 4))

    optimizer_d.zero_grad()
    loss_real = criterion(discriminator(real), torch.ones(16, 1))
    loss_fake = criterion(discriminator(fake.detach()), torch.zeros(16, 1))
    loss_d = (loss_real + loss_fake) / 2
    loss_d.backward()
    optimizer_d.step()

    optimizer_g.zero_grad()
    loss_g = criterion(discriminator(fake), torch.ones(16, 1))
    loss_g.backward()
    optimizer_g.step()

torch.save({"generator": generator.state_dict(), "discriminator": discriminator.state_dict()}, "weights.pt")
