"""Energies and forces of clusters of two to five atoms, which attract and repel each other as Lennard-Jones says.

Run it with ``python examples/presets/energy_and_forces.py``. The table below the books says what energy and forces send
to the parameters, which is not what they send to their outputs.
"""

import torch
from torch import Tensor, nn

import headwise as hw

SLOTS = 5


def pairs(positions: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of all pairs of atoms, (N, pairs), and which of them there are."""
    first, second = torch.triu_indices(SLOTS, SLOTS, 1)
    there = atoms[:, first] & atoms[:, second]
    apart = (positions[:, first] - positions[:, second]).square().sum(-1)
    return torch.where(there, apart, 1.0).sqrt(), there


class Potential(nn.Module):
    """An energy a pair, from its distance; forces are minus its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(0.7, 3.0, 16))
        self.energy = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, positions: Tensor, atoms: Tensor) -> dict[str, Tensor]:
        positions = positions.detach().requires_grad_()
        distance, there = pairs(positions, atoms)
        basis = torch.exp(-((distance[..., None] - self.centers) ** 2) / 0.05)
        energy = torch.where(there, self.energy(basis).squeeze(-1), 0.0).sum(1)
        forces = -torch.autograd.grad(energy.sum(), positions, create_graph=True)[0]
        return {"energy": energy, "forces": forces}


def batch(step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Positions on a shaken grid, and what Lennard-Jones says of them."""
    draw = torch.Generator().manual_seed(step)
    grid = torch.cartesian_prod(*[torch.arange(2.0)] * 3)[:SLOTS] * 1.3
    positions = (grid + 0.06 * torch.randn(16, SLOTS, 3, generator=draw)).requires_grad_()
    atoms = torch.arange(SLOTS) < torch.randint(2, SLOTS + 1, (16, 1), generator=draw)
    distance, there = pairs(positions, atoms)
    energy = torch.where(there, 4 * (distance**-12 - distance**-6), 0.0).sum(1)
    forces = -torch.autograd.grad(energy.sum(), positions)[0]
    return positions.detach(), {"energy": energy.detach(), "forces": forces, "atoms": atoms}


def main(steps: int = 300, out: str | None = None) -> hw.Ledger:
    """Train, print the books of the last step, and write a run folder if one is named."""
    torch.manual_seed(0)
    network, criterion = Potential(), hw.presets.energy_and_forces()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    ledger = hw.Ledger(criterion, optimizer=optimizer)
    run = hw.Run(out, ledger, every=20) if out else None
    for step in range(1, steps + 1):
        positions, targets = batch(step)
        breakdown = criterion(network(positions, targets["atoms"]), targets)
        if step == steps:
            table = hw.attribution.jacobian(breakdown, network, group=lambda name: "network")
        optimizer.zero_grad()
        breakdown.total.backward()
        optimizer.step()
        if run is not None:
            run.log(step)
    if run is not None:
        run.close()
    print(ledger.read())
    print(table)
    return ledger


if __name__ == "__main__":
    main()
