"""The slow oracle: one backward pass per loss, and small networks to compare on."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def rows(losses: Mapping[str, Tensor], model: nn.Module) -> dict[str, dict[str, Tensor | None]]:
    """The gradient of every loss with respect to every parameter, None where there is no path."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, dict[str, Tensor | None]] = {}
    for name, loss in losses.items():
        grads: tuple[Tensor | None, ...]
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        else:
            grads = (None,) * len(named)
        found[name] = dict(zip(named, grads, strict=True))
    return found


class Net(nn.Module):
    """A trunk with a skip connection, two heads that share it, and one layer that nothing uses."""

    def __init__(self, *, use_checkpoint: bool = False, in_place: bool = False, norm: bool = True) -> None:
        super().__init__()
        self.use_checkpoint, self.in_place = use_checkpoint, in_place
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.Identity())
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 6, 1))
        self.region = nn.Conv2d(6, 4, 1)
        self.depth = nn.Sequential(nn.Conv2d(6, 5, 1), nn.Tanh(), nn.Conv2d(5, 1, 1))
        self.unused = nn.Linear(2, 2)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.stem(image).tanh()
        inner = checkpoint(self.block, features, use_reentrant=False) if self.use_checkpoint else self.block(features)
        features = features + inner
        if self.in_place:
            features.sigmoid_()
        return {"region": self.region(features), "depth": self.depth(features)}


def three_losses(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Two losses on slices of one output, one on the other."""
    region, depth = outputs["region"], outputs["depth"]
    return {
        "text": region[:, 0:2].square().mean(),
        "angle": 3 * torch.sin(region[:, 3]).mean(),
        "depth": (depth - 1).abs().mean(),
    }


def setup(seed: int = 0, **options: bool) -> tuple[Net, dict[str, Tensor], dict[str, Tensor]]:
    """A network in float64 in training mode, its outputs, and their losses."""
    torch.manual_seed(seed)
    model = Net(**options).double().train()
    outputs = model(torch.randn(4, 3, 6, 5, dtype=torch.float64))
    return model, outputs, three_losses(outputs)
