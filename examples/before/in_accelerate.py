"""A loop of Accelerate whose criterion returns a dict and weighs it; run it with ``headwise run``."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn


class Heads(nn.Module):
    """Tells a class and a place."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.label, self.place = nn.Linear(8, 32), nn.Linear(32, 4), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x).relu()
        return {"label": self.label(features), "place": self.place(features)}


class SetCriterion(nn.Module):
    """Losses by name, and their weights beside them."""

    weight_dict = {"loss_label": 1.0, "loss_place": 5.0, "loss_norm": 0.1}  # noqa: RUF012

    def forward(self, outputs: dict[str, Tensor], label: Tensor, place: Tensor) -> dict[str, Tensor]:
        return {
            "loss_label": F.cross_entropy(outputs["label"], label),
            "loss_place": F.smooth_l1_loss(outputs["place"], place),
            "loss_norm": outputs["place"].square().mean(),
        }


def main() -> None:
    """Train a little."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    data = torch.utils.data.TensorDataset(x, x.argmax(1) % 4, x[:, :2])
    model, criterion = Heads(), SetCriterion()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, torch.utils.data.DataLoader(data, batch_size=16))
    for inputs, label, place in loader:
        with accelerator.accumulate(model):
            loss_dict = criterion(model(inputs), label, place)
            losses = sum(loss_dict[name] * criterion.weight_dict[name] for name in loss_dict)
            accelerator.backward(losses)
            optimizer.step()
            optimizer.zero_grad()
    torch.save(accelerator.unwrap_model(model).state_dict(), "weights.pt")


if __name__ == "__main__":
    main()
