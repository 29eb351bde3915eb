"""One optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from headwise.criterion import Breakdown, Criterion, pool_denominators, undo_averaging
from headwise.training.task import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def training_step(
    fabric: Fabric,
    network: Any,
    criterion: Criterion,
    optimizer: Optimizer,
    micro_batches: Sequence[Batch],
    *,
    clip_norm: float | None = None,
    channels_last: bool = True,
) -> Breakdown:
    """Do one optimizer step: forward, terms and one backward pass of their total a micro-batch, then the update.

    The terms are divided by what their counts add up to over all micro-batches and processes, so the gradient is that
    of the whole batch however it is split. Nothing is read from the device.

    Args:
        fabric: places tensors, runs the backward passes and averages gradients over processes.
        network: set up by the fabric.
        criterion: its schedules move on by one step.
        optimizer: set up by the fabric.
        micro_batches: this process's part of the batch, on the CPU or on the device.
        clip_norm: largest norm of the gradient; None for no limit.
        channels_last: memory format of the images.

    Returns:
        The terms of the last micro-batch before the update.
    """
    network.train()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    batches = [fabric.to_device(batch) for batch in micro_batches]
    split = fabric.world_size > 1 or len(batches) > 1
    denominators = pool_denominators(criterion, [batch.targets for batch in batches]) if split else None
    for number, batch in enumerate(batches, start=1):
        with fabric.no_backward_sync(network, enabled=number < len(batches)):
            outputs = network(batch.images.contiguous(memory_format=layout))
            breakdown: Breakdown = criterion(outputs, batch.targets, denominators=denominators, ids=batch.ids)
            fabric.backward(undo_averaging(breakdown.total, ranks=fabric.world_size))
    if clip_norm is not None:
        fabric.clip_gradients(network, optimizer, max_norm=clip_norm, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    criterion.advance()
    return breakdown
