"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn

torch.manual_seed(0)
netG = nn.Sequential(
    nn.ConvTranspose2d(8, 6, 4), nn.BatchNorm2d(6), nn.ReLU(True), nn.ConvTranspose2d(6, 1, 5), nn.Tanh()
)
netD = nn.Sequential(nn.Conv2d(1, 6, 5), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(6, 1, 4), nn.Sigmoid())
criterion = nn.BCELoss()
optimizerD = torch.optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizerG = torch.optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))

for _ in range(3):
    netD.zero_grad()
    real = torch.rand(4, 1, 8, 8)
    label = torch.full((4,), 1.0)
    output = netD(real).view(-1)
    errD_real = criterion(output, label)
    errD_real.backward()
    noise = torch.randn(4, 8, 1, 1)
    fake = netG(noise)
    label.fill_(0.0)
    output = netD(fake.detach()).view(-1)
    errD_fake = criterion(output, label)
    errD_fake.backward()
    errD = errD_real + errD_fake
    optimizerD.step()

    netG.zero_grad()
    label.fill_(1.0)
    output = netD(fake).view(-1)
    errG = criterion(output, label)
    errG.backward()
    optimizerG.step()

torch.save([netD.state_dict(), netG.state_dict()], "weights.pt")
