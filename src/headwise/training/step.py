"""One optimiser step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Optimizer

from headwise.criterion import Breakdown, Criterion
from headwise.training.task import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def training_step(
    fabric: Fabric,
    network: nn.Module,
    criterion: Criterion,
    optimiser: Optimizer,
    batch: Batch,
    *,
    clip_norm: float | None = None,
    channels_last: bool = True,
) -> Breakdown:
    """Do one optimiser step: forward, terms, one backward pass of their total, update.

    Nothing is read from the device.

    Args:
        fabric: places tensors and runs the backward pass.
        network: set up by the fabric.
        criterion: its schedules move on by one step.
        optimiser: set up by the fabric.
        batch: on the CPU or on the device.
        clip_norm: largest norm of the gradient; None for no limit.
        channels_last: memory format of the images.

    Returns:
        The terms before the update.
    """
    network.train()
    batch = fabric.to_device(batch)
    images = batch.images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    breakdown: Breakdown = criterion(network(images), batch.targets)
    fabric.backward(breakdown.total)
    if clip_norm is not None:
        fabric.clip_gradients(network, optimiser, max_norm=clip_norm, error_if_nonfinite=False)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    criterion.advance()
    return breakdown
