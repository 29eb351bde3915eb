"""Auxiliary weights that fall to exactly 0 while a U-Net is trained under DDP."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import headwise as hw
from headwise.criterion.schedules import StepDecay
from headwise.networks import unet
from tests.distributed.ranks import on_ranks

STEPS = 4  # weights 1, 0.1, 0.01, 0


def made() -> tuple[torch.nn.Module, hw.Criterion, Tensor, Tensor]:
    torch.manual_seed(0)
    network = unet(2, width=2, depth=2, auxiliary=2).double()
    falling = StepDecay(1.0, 0.1, every=1, negligible=5e-3)
    criterion = hw.presets.deep_supervision(weights=[1.0, falling, falling], strides=[1, 2, 4])
    images, labels = torch.rand(4, 3, 9, 13).double(), torch.randint(0, 2, (4, 9, 13))
    return network, criterion, images, labels


def trained(rank: int | None, world: int) -> dict[str, Any]:
    """Four steps of SGD; what the last auxiliary head got in each."""
    network, criterion, images, labels = made()
    if rank is not None:
        images, labels = images[rank::world], labels[rank::world]
    wrapped = network if rank is None else DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    heads = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        targets = {"label": labels}
        denominators = None if rank is None else hw.pool_denominators(criterion, [targets])
        (criterion(wrapped(images), targets, denominators).total * world).backward()
        heads.append(network.get_parameter("heads.2.weight").grad)
        heads[-1] = None if heads[-1] is None else heads[-1].clone()
        optimizer.step()
        criterion.advance()
    return {"heads": heads, "weights": [parameter.detach() for parameter in network.parameters()]}


@pytest.mark.timeout(120)
def test_ddp_neither_hangs_nor_differs_when_weights_reach_zero():
    alone, ranks = trained(None, 1), on_ranks(trained)
    for result in (alone, *ranks):
        sizes = [float(head.abs().max()) for head in result["heads"]]
        assert sizes[0] > sizes[1] > sizes[2] > 0
        assert sizes[3] == 0
    for one, other, wanted in zip(ranks[0]["weights"], ranks[1]["weights"], alone["weights"], strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, wanted, rtol=1e-9, atol=1e-12)
