"""The books of a mixture of experts, whose router has a loss of its own in the middle of the network.

Run it with ``python examples/books_of_a_mixture_of_experts.py``. The balance loss (Fedus et al. 2021, equation 4) keeps
the router from sending every token to one expert. The line marked ``headwise`` adds it and books it: no layer hands a
number out, no loop adds them up.
"""

import torch
from torch import Tensor, nn

import headwise as hw
from headwise.losses import squared_error

EXPERTS = 4


def balance(chances: Tensor) -> Tensor:
    """Experts times the sum of (part of the tokens that an expert has) x (its mean chance): 1 where all are alike."""
    chosen = torch.nn.functional.one_hot(chances.argmax(-1), EXPERTS).float().mean(0)
    return EXPERTS * (chosen * chances.mean(0)).sum()


class Mixture(nn.Module):
    """Each token goes through the expert that the router likes best, and comes back times its chance."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, EXPERTS)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(EXPERTS))

    def forward(self, tokens: Tensor) -> Tensor:
        chances = self.router(tokens).softmax(-1)
        chances = hw.book(chances, name="balance", loss=balance, weight=0.01)  # headwise
        best, expert = chances.max(-1, keepdim=True)
        found = torch.stack([each(tokens).tanh() for each in self.experts], 1)
        picked = found.gather(1, expert[..., None].expand(-1, 1, tokens.shape[-1])).squeeze(1)
        return tokens + best * picked


def main(steps: int = 30) -> None:
    """Train a little."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), Mixture(8), Mixture(8), nn.Linear(8, 2))
    criterion = hw.Criterion([hw.Term("curve", squared_error, output="curve", target="curve")])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    ledger = hw.Ledger(criterion, optimizer=optimizer)
    for step in range(steps):
        points = torch.randn(64, 3)
        targets = {"curve": torch.stack([points.prod(-1), points.norm(dim=-1)], -1)}
        optimizer.zero_grad()
        loss = criterion({"curve": network(points)}, targets).total
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss:.4f}")
    print(ledger.read())


if __name__ == "__main__":
    main()
