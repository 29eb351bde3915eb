"""Two towers that learn which picture and which words belong together.

Run it with ``python examples/presets/two_tower.py``; it ends with how often the right words are nearest to a picture.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import headwise as hw

HIDDEN, WORDS = 6, 2**6


class TwoTowers(nn.Module):
    """A picture and six words, each as a point on a sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 16))
        self.text = nn.Sequential(nn.EmbeddingBag(2 * HIDDEN, 64), nn.GELU(), nn.Linear(64, 16))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        return {
            "image_embedding": F.normalize(self.image(image), dim=1),
            "text_embedding": F.normalize(self.text(text), dim=1),
            "log_scale": self.log_scale.clamp(max=math.log(100)),
        }


def batch(step: int, num: int = 32) -> tuple[Tensor, Tensor]:
    """Pictures of six things that are there or not, and a word for each; all of a batch are different."""
    draw = torch.Generator().manual_seed(step)
    there = torch.randperm(WORDS, generator=draw)[:num, None] >> torch.arange(HIDDEN) & 1
    mixed = torch.randn(HIDDEN, 64, generator=torch.Generator().manual_seed(0))
    image = (2.0 * there - 1) @ mixed + 0.5 * torch.randn(num, 64, generator=draw)
    return image, there + 2 * torch.arange(HIDDEN)


def main(steps: int = 150, out: str | None = None) -> hw.Ledger:
    """Train, print the books of the last step, and write a run folder if one is named."""
    torch.manual_seed(0)
    network, criterion = TwoTowers(), hw.presets.two_tower()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    ledger = hw.Ledger(criterion, optimizer=optimizer)
    run = hw.Run(out, ledger, every=20) if out else None
    for step in range(1, steps + 1):
        image, text = batch(step)
        optimizer.zero_grad()
        criterion(network(image, text), {"pair": torch.arange(len(image))}).total.backward()
        optimizer.step()
        if run is not None:
            run.log(step)
    if run is not None:
        run.close()
    books = ledger.read()
    print(books)
    print(f"cosine of both directions: {books.cosine('image_to_text', 'text_to_image'):+.2f}")
    with torch.no_grad():
        found = network(*batch(0))
    nearest = (found["image_embedding"] @ found["text_embedding"].T).argmax(1)
    print(f"right words nearest: {(nearest == torch.arange(len(nearest))).float().mean():.0%}")
    return ledger


if __name__ == "__main__":
    main()
