"""Denominators totalled over the micro-batches and ranks of one optimiser step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from headwise.criterion.criterion import Criterion


def pool_denominators(criterion: Criterion, micro_batches: Iterable[Any], group: Any = None) -> dict[str, Tensor]:
    """What divides each term in one optimiser step, from the targets alone: no forward pass is needed.

    Divided by these, the sums of all micro-batches and ranks add up to the gradient of the whole batch. A loop that
    averages over ranks (DDP) or divides by the number of micro-batches must be undone: multiply the total by both.

    Args:
        criterion: The criterion.
        micro_batches: The targets of each of this rank's micro-batches.
        group: A process group; None means the default one if `torch.distributed` is initialised.

    Returns:
        Per term the total, to be handed to ``criterion(outputs, targets, denominators=...)``.

    Raises:
        ValueError: There are no micro-batches.
    """
    totals: dict[str, Tensor] = {}
    for targets in micro_batches:
        for name, count in criterion.denominators(targets).items():
            totals[name] = totals[name] + count if name in totals else count
    if not totals:
        raise ValueError("pool_denominators needs the targets of at least one micro-batch")
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return totals
    packed = torch.cat([count.reshape(-1).double() for count in totals.values()])
    torch.distributed.all_reduce(packed, group=group)
    parts = torch.split(packed, [count.numel() for count in totals.values()])
    return {name: part.view(count.shape) for (name, count), part in zip(totals.items(), parts, strict=True)}
