"""A Lightning module of two heads whose losses stand in ``training_step``; run it with ``headwise run``."""

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Curve(lightning.LightningModule):
    """Learns a curve and its slope."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(1, 32), nn.Tanh())
        self.height, self.slope = nn.Linear(32, 1), nn.Linear(32, 1)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        x, height, slope = batch
        features = self.trunk(x)
        loss_height = F.mse_loss(self.height(features), height)
        loss_slope = F.l1_loss(self.slope(features), slope)
        self.log("height", loss_height)
        return loss_height + 0.5 * loss_slope

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def main() -> None:
    """Train a little."""
    lightning.seed_everything(0)
    x = torch.linspace(-3, 3, 128)[:, None]
    data = torch.utils.data.TensorDataset(x, x.sin(), x.cos())
    model = Curve()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", accumulate_grad_batches=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=16, shuffle=True))
    torch.save(model.state_dict(), "weights.pt")


if __name__ == "__main__":
    main()
