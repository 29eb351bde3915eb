"""The heat equation of a rod, ``u_t = 0.1 u_xx``, cold at both ends, solved by a network that sees no solution.

Run it with ``python examples/presets/physics_informed.py``; it ends with how far it is from the solution.
"""

import math

import torch
from torch import Tensor, nn

import headwise as hw

CONDUCTIVITY = 0.1


def solution(x: Tensor, t: Tensor) -> Tensor:
    """What the network is to find."""
    return torch.exp(-CONDUCTIVITY * math.pi**2 * t) * torch.sin(math.pi * x)


class Rod(nn.Module):
    """The temperature at a place and a time, (P, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t], 1))

    def residual(self, x: Tensor, t: Tensor) -> Tensor:
        """What the equation leaves over."""
        x, t = x.requires_grad_(), t.requires_grad_()
        u = self(x, t)
        u_x, u_t = torch.autograd.grad(u.sum(), (x, t), create_graph=True)
        return u_t - CONDUCTIVITY * torch.autograd.grad(u_x.sum(), x, create_graph=True)[0]


def main(steps: int = 800, out: str | None = None) -> hw.Ledger:
    """Train, print the books of the last step, and write a run folder if one is named."""
    torch.manual_seed(0)
    network, criterion = Rod(), hw.presets.physics_informed()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    ledger = hw.Ledger(criterion, optimizer=optimizer)
    run = hw.Run(out, ledger, every=20) if out else None
    for step in range(1, steps + 1):
        draw = torch.Generator().manual_seed(step)
        x, t, end, when, start = (torch.rand(num, 1, generator=draw) for num in (128, 128, 16, 16, 32))
        outputs = {
            "residual": network.residual(x, t),
            "boundary": network(end.round(), when),
            "initial": network(start, torch.zeros_like(start)),
        }
        targets = {
            "residual": torch.zeros(128, 1),
            "boundary": torch.zeros(16, 1),
            "initial": solution(start, torch.zeros_like(start)),
        }
        optimizer.zero_grad()
        criterion(outputs, targets).total.backward()
        optimizer.step()
        if run is not None:
            run.log(step)
    if run is not None:
        run.close()
    print(ledger.read())
    x, t = (each.reshape(-1, 1) for each in torch.meshgrid(*[torch.linspace(0, 1, 21)] * 2, indexing="ij"))
    with torch.no_grad():
        print(f"largest error: {(network(x, t) - solution(x, t)).abs().max():.3f}")
    return ledger


if __name__ == "__main__":
    main()
