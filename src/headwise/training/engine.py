"""Lightning Fabric as this room uses it: one process, or those that torchrun started, by DDP or FSDP2."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headwise.training.ranks import launched_by_torchrun
from headwise.training.task import Settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def open_fabric(settings: Settings) -> Fabric:
    """Return the engine of a run: one device, or one a process where torchrun started several.

    Args:
        settings: precision and strategy.

    Returns:
        The engine, its processes connected.

    Raises:
        ImportError: lightning-fabric is missing.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise ImportError(
            "headwise.training needs lightning-fabric. Install with: pip install headwise[train]"
        ) from None
    count = int(os.environ["WORLD_SIZE"]) if launched_by_torchrun() else 1
    if count == 1:
        return Fabric(accelerator="auto", devices=1, precision=settings.precision)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    fabric = Fabric(
        accelerator="auto",
        devices=local,
        num_nodes=count // local,
        strategy=_strategy(settings, count),
        precision=settings.precision,
    )
    fabric.launch()
    return fabric


def _strategy(settings: Settings, count: int) -> Any:
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if settings.strategy == "ddp":
        return DDPStrategy(gradient_as_bucket_view=True)
    return ModelParallelStrategy(_shard, data_parallel_size=count, tensor_parallel_size=1)


def _shard(network: nn.Module, mesh: Any) -> nn.Module:
    """Shard each block that holds a fair share of the weights, then the rest."""
    from torch.distributed.fsdp import fully_shard

    places = mesh["data_parallel"]
    for block in network.children():
        if sum(parameter.numel() for parameter in block.parameters()) >= SMALLEST_SHARD:
            fully_shard(block, mesh=places)
    fully_shard(network, mesh=places)
    return network


SMALLEST_SHARD = 2**20
"""Weights of a block that is gathered on its own; smaller ones travel together."""


def set_up(fabric: Fabric, network: nn.Module, optimiser: Optimizer) -> tuple[Any, Any]:
    """Hand network and optimiser to the engine.

    Args:
        fabric: the engine.
        network: changed in place where it is sharded.
        optimiser: over its parameters; follows them to their shards.

    Returns:
        Both, as the engine runs them.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    module = fabric.setup_module(network)
    now = dict(network.named_parameters())
    for group in optimiser.param_groups:
        group["params"] = [now[names[id(parameter)]] for parameter in group["params"]]
    return module, fabric.setup_optimizers(optimiser)


def whole(tree: Any) -> Any:
    """Gather what is sharded in nested mappings and lists; all processes must call it.

    Args:
        tree: a state dict.

    Returns:
        The same, of plain tensors.
    """
    return _map(tree, lambda tensor: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor)


def load_network(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network, sharded or not, the weights of a whole state dict.

    Args:
        network: on every process.
        state: of plain tensors.
    """
    own = network.state_dict()
    network.load_state_dict({name: _like(own[name], value) if name in own else value for name, value in state.items()})


def load_optimiser(optimiser: Optimizer, state: Mapping[str, Any]) -> None:
    """Give an optimiser, its parameters sharded or not, a whole state dict.

    Args:
        optimiser: on every process.
        state: of plain tensors.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    moments = {number: _map(each, partial(_like, parameters[number])) for number, each in state["state"].items()}
    optimiser.load_state_dict({**state, "state": moments})


def _like(own: Any, value: Tensor) -> Tensor:
    """Shard a tensor as one of the same shape is; step counters and plain tensors stay."""
    if not hasattr(own, "placements") or own.shape != value.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def _map(tree: Any, function: Callable[[Tensor], Any]) -> Any:
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: _map(value, function) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map(value, function) for value in tree)
    return tree


def deterministic_seed(*parts: int) -> int:
    """Mix numbers into one seed.

    Args:
        *parts: not negative.

    Returns:
        A seed in [0, 2**63).
    """
    import numpy as np

    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed everything random about one step on one process, so that a resumed run needs no saved state.

    Args:
        seed: of the run.
        step: optimiser steps done.
        rank: of this process.
    """
    import random

    import numpy as np

    mixed = deterministic_seed(seed, step, rank)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002  the global state is what is meant
    torch.manual_seed(mixed)
