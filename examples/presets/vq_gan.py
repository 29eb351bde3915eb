"""An autoencoder of small pictures with a codebook, and a discriminator that tells its pictures from real ones.

Run it with ``python examples/presets/vq_gan.py``. Two optimizers, two criteria, two sets of books; the adversarial
weight follows the gradients at the last layer, as in the original, and the books show what it was.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

import headwise as hw

SIZE, CODES, DEPTH, START = 16, 32, 8, 20


def convolutions(*widths: int, stride: int = 2) -> nn.Sequential:
    layers = [nn.Conv2d(a, b, 4, stride, 1) for a, b in pairwise(widths)]
    return nn.Sequential(*[each for layer in layers for each in (layer, nn.LeakyReLU(0.2))][:-1])


class Autoencoder(nn.Module):
    """Two halvings, the nearest of 32 codes, two doublings."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.codebook = convolutions(3, 16, DEPTH), nn.Embedding(CODES, DEPTH)
        self.decode = nn.Sequential(nn.ConvTranspose2d(DEPTH, 16, 4, 2, 1), nn.LeakyReLU(0.2))
        self.last = nn.ConvTranspose2d(16, 3, 4, 2, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        encoding = self.encode(image)
        flat = encoding.movedim(1, -1)
        nearest = torch.cdist(flat.reshape(-1, DEPTH), self.codebook.weight).argmin(1)
        codes = self.codebook(nearest).reshape(flat.shape).movedim(-1, 1)
        straight = encoding + (codes - encoding).detach()
        return {"image": self.last(self.decode(straight)), "codes": codes, "encoding": encoding}


def batch(step: int) -> Tensor:
    """Bright blobs of two colors."""
    draw = torch.Generator().manual_seed(step)
    place = torch.rand(16, 3, 2, 1, 1, generator=draw) * SIZE
    y, x = torch.meshgrid(*[torch.arange(float(SIZE))] * 2, indexing="ij")
    return torch.exp(-((y - place[:, :, 0]) ** 2 + (x - place[:, :, 1]) ** 2) / 12)


def adaptive(breakdown: hw.Breakdown, last: Tensor) -> Tensor:
    """The ratio of gradients at the last layer, as the authors clamp it."""
    seen = breakdown["reconstruction"].weighted + breakdown["perceptual"].weighted
    asked = (seen, breakdown["adversarial"].value)
    real, fake = (torch.autograd.grad(each, last, retain_graph=True)[0].norm() for each in asked)
    return (real / (fake + 1e-4)).clamp(0, 1e4).detach()


def main(steps: int = 100, out: str | None = None) -> tuple[hw.Ledger, hw.Ledger]:
    """Train, print both books of the last step, and write a run folder if one is named."""
    torch.manual_seed(0)
    network, judge, eye = Autoencoder(), convolutions(3, 16, 16, 1), convolutions(3, 8, 8).requires_grad_(False)
    start = hw.schedules.Linear(0.0, 0.8, steps=1, delay=START - 1)
    criterion, judging = hw.presets.vq_gan(adversarial_weight=start), hw.presets.vq_gan_discriminator()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    judge_optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3)
    ledger = hw.Ledger(criterion)  # `advance` marks its steps
    judge_ledger = hw.Ledger(judging, optimizer=judge_optimizer)
    run = hw.Run(out, ledger, every=20) if out else None
    for step in range(1, steps + 1):
        image = batch(step)
        outputs = network(image)
        made = outputs["image"]
        outputs |= {"features": [eye(made)], "fake_logits": judge(made)}
        breakdown = criterion(outputs, {"image": image, "features": [eye(image)]})
        rate = adaptive(breakdown, network.last.weight)
        optimizer.zero_grad()
        (breakdown.total + (rate - 1) * breakdown["adversarial"].weighted).backward()
        optimizer.step()
        criterion.advance()

        judged = judging({"real_logits": judge(image), "fake_logits": judge(made.detach())}, {"image": image})
        judge_optimizer.zero_grad()  # also of what the autoencoder's pass left in it
        judged.total.backward()
        judge_optimizer.step()
        if run is not None:
            run.log(step)
    if run is not None:
        run.close()
    print(ledger.read())
    print(judge_ledger.read())
    return ledger, judge_ledger


if __name__ == "__main__":
    main()
