"""In the manner of published code, unchanged for `headwise run`."""

import itertools

import torch
from torch import nn

torch.manual_seed(0)
G_AB, G_BA, D_A, D_B = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)
criterion_GAN, criterion_cycle, criterion_identity = nn.MSELoss(), nn.L1Loss(), nn.L1Loss()
optimizer_G = torch.optim.Adam(itertools.chain(G_AB.parameters(), G_BA.parameters()), lr=2e-4)
optimizer_D_A, optimizer_D_B = torch.optim.Adam(D_A.parameters()), torch.optim.Adam(D_B.parameters())
lambda_cyc, lambda_id = 10.0, 5.0
for _ in range(3):
    real_A, real_B = torch.randn(5, 4), torch.randn(5, 4)
    valid, fake = torch.ones(5, 1), torch.zeros(5, 1)

    optimizer_G.zero_grad()
    loss_id_A = criterion_identity(G_BA(real_A), real_A)
    loss_id_B = criterion_identity(G_AB(real_B), real_B)
    loss_identity = (loss_id_A + loss_id_B) / 2
    fake_B = G_AB(real_A)
    loss_GAN_AB = criterion_GAN(D_B(fake_B), valid)
    fake_A = G_BA(real_B)
    loss_GAN_BA = criterion_GAN(D_A(fake_A), valid)
    loss_GAN = (loss_GAN_AB + loss_GAN_BA) / 2
    recov_A = G_BA(fake_B)
    loss_cycle_A = criterion_cycle(recov_A, real_A)
    recov_B = G_AB(fake_A)
    loss_cycle_B = criterion_cycle(recov_B, real_B)
    loss_cycle = (loss_cycle_A + loss_cycle_B) / 2
    loss_G = loss_GAN + lambda_cyc * loss_cycle + lambda_id * loss_identity
    loss_G.backward()
    optimizer_G.step()

    optimizer_D_A.zero_grad()
    loss_real = criterion_GAN(D_A(real_A), valid)
    loss_fake = criterion_GAN(D_A(fake_A.detach()), fake)
    loss_D_A = (loss_real + loss_fake) / 2
    loss_D_A.backward()
    optimizer_D_A.step()

    optimizer_D_B.zero_grad()
    loss_real = criterion_GAN(D_B(real_B), valid)
    loss_fake = criterion_GAN(D_B(fake_B.detach()), fake)
    loss_D_B = (loss_real + loss_fake) / 2
    loss_D_B.backward()
    optimizer_D_B.step()
torch.save([each.state_dict() for each in (G_AB, G_BA, D_A, D_B)], "weights.pt")
