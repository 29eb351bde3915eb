"""The books in a loop written with Accelerate: one line before the loop.

Run it with ``python examples/books_in_accelerate.py [FOLDER]``; it needs accelerate and tensorboard.
"""

import sys

import torch
from accelerate import Accelerator
from torch import nn

import headwise as hw
from headwise.losses import absolute_error, squared_error
from headwise.training.callbacks import accelerate_hooks


def main(folder: str = "books-in-accelerate") -> None:
    """Train, and print the last books."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, log_with="tensorboard", project_dir=folder)
    accelerator.init_trackers("curve")
    x = torch.linspace(-3, 3, 256)
    data = torch.utils.data.TensorDataset(x[:, None], x.sin(), x.cos())
    network = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2))
    criterion = hw.Criterion(
        [
            hw.Term("height", squared_error, output="y[:, 0]", target="height"),
            hw.Term("slope", absolute_error, output="y[:, 1]", target="slope", weight=0.5),
        ]
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)

    hooks = accelerate_hooks(accelerator, optimizer, criterion, every=4)
    for _ in range(5):
        for x, height, slope in loader:
            with accelerator.accumulate(network):
                breakdown = criterion({"y": network(x)}, {"height": height, "slope": slope})
                accelerator.backward(breakdown.total)
                optimizer.step()
                optimizer.zero_grad()
    hooks.close()
    accelerator.end_training()
    print(hooks.history[-1])


if __name__ == "__main__":
    main(*sys.argv[1:2])
