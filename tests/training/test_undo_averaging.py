"""`undo_averaging` in real loops that divide by the number of micro-batches: the gradient of the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import headwise as hw
from tests.criterion.samples import squared

NUM = 3  # micro-batches a step, whose masks differ much
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`:FutureWarning"),  # lightning 2.6, newer torch
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # a hint of lightning's; the data is in memory
]


def criterion() -> hw.Criterion:
    return hw.Criterion([hw.Term("y", squared, output="y", target="target", mask="valid")])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def micro_batches() -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        {
            "x": torch.randn(4, 3, generator=draw),
            "target": torch.randn(4, 2, generator=draw),
            "valid": torch.rand(4, 2, generator=draw) < share,
        }
        for share in (0.9, 0.1, 0.4)
    ]


def samples() -> Any:
    """The micro-batches as a list, which every loop takes for a data set."""
    return micro_batches()


def targets_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("target", "valid")}


def breakdown_of(model: nn.Module, batch: dict[str, Tensor], pooled: Any = None) -> hw.Breakdown:
    found: hw.Breakdown = criterion()({"y": model(batch["x"])}, targets_of(batch), pooled)
    return found


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


@pytest.fixture
def whole() -> Tensor:
    model, parts = network(), micro_batches()
    breakdown_of(model, {name: torch.cat([part[name] for part in parts]) for name in parts[0]}).total.backward()
    return gradient(model)


@pytest.fixture
def pooled() -> dict[str, Tensor]:
    return hw.pool_denominators(criterion(), [targets_of(part) for part in micro_batches()])


def test_accelerate(whole, pooled):
    accelerate = pytest.importorskip("accelerate", reason="pip install accelerate (dependency group loops)")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=NUM)
    model, loader = accelerator.prepare(network(), torch.utils.data.DataLoader(samples(), batch_size=None))
    for batch in loader:
        with accelerator.accumulate(model):
            total = breakdown_of(model, batch, pooled).total
            accelerator.backward(hw.undo_averaging(total, micro_batches=accelerator.gradient_accumulation_steps))
    torch.testing.assert_close(gradient(model), whole, rtol=1e-6, atol=1e-7)


def test_lightning(whole, pooled, tmp_path):
    lightning = pytest.importorskip("lightning", reason="pip install lightning (dependency group loops)")
    found = []

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self):
            super().__init__()
            self.network = network()

        def training_step(self, batch, index):
            total = breakdown_of(self.network, batch, pooled).total
            return hw.undo_averaging(total, micro_batches=self.trainer.accumulate_grad_batches)

        def on_before_optimizer_step(self, optimizer):
            found.append(gradient(self))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=NUM,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(samples(), batch_size=None))
    (stepped,) = found
    torch.testing.assert_close(stepped, whole, rtol=1e-6, atol=1e-7)
