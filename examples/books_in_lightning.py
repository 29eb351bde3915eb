"""The books in a Lightning Trainer: one callback, keys ``headwise/<term>/...`` in TensorBoard.

Run it with ``python examples/books_in_lightning.py [FOLDER]``; it needs lightning and tensorboard.
"""

import sys

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

import headwise as hw
from headwise.losses import absolute_error, squared_error
from headwise.training.callbacks import lightning_callback


class Curve(lightning.LightningModule):
    """Learns a curve and its slope; nothing in here knows of the books."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2))
        self.criterion = hw.Criterion(
            [
                hw.Term("height", squared_error, output="y[:, 0]", target="height"),
                hw.Term("slope", absolute_error, output="y[:, 1]", target="slope", weight=0.5),
            ]
        )

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        x, height, slope = batch
        return self.criterion({"y": self.network(x)}, {"height": height, "slope": slope}).total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def main(folder: str = "books-in-lightning") -> None:
    """Train, and print the last books."""
    x = torch.linspace(-3, 3, 256)
    data = torch.utils.data.TensorDataset(x[:, None], x.sin(), x.cos())
    module = Curve()
    books = lightning_callback(module.criterion)
    trainer = lightning.Trainer(
        max_epochs=5, accelerator="cpu", log_every_n_steps=4, accumulate_grad_batches=2, callbacks=[books],
        logger=TensorBoardLogger(folder), enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=32, shuffle=True))
    print(books.history[-1])


if __name__ == "__main__":
    main(*sys.argv[1:2])
