"""Lightning Fabric as this room uses it: one process, or those that torchrun started, by DDP or FSDP2."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from headwise.require import require
from headwise.structure import mapped
from headwise.training.precision import half_precision
from headwise.training.ranks import Ranks, launched_by_torchrun, restarted_by_torchrun
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
        ValueError: no such device.
    """
    require("headwise.training", "train", "lightning_fabric", "rich", "tensorboard", "numpy")
    from lightning_fabric import Fabric

    if not launched_by_torchrun() or os.environ["WORLD_SIZE"] == "1":
        return Fabric(**_place(settings.device), **_precision(settings))
    count, local = _processes()
    fabric = Fabric(
        accelerator=settings.device.partition(":")[0],
        devices=local,
        num_nodes=count // local,
        strategy=_strategy(settings, count),
        **_precision(settings, _environment()),
    )
    if restarted_by_torchrun() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _meet_anew(count)
    fabric.launch()
    return fabric


def _place(device: str) -> dict[str, Any]:
    """Return which device one process computes on, as the engine takes it."""
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
        raise ValueError(f"device is auto, cpu, cuda, cuda:NUMBER or mps, found {device!r}.")
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if int(number or 0) >= there.get(kind, 1):
        raise ValueError(f"device {device}: this machine has {there[kind]} of {kind}. Take auto or cpu.")
    return {"accelerator": kind, "devices": [int(number or 0)] if kind == "cuda" else 1}


def _precision(settings: Settings, *plugins: Any) -> dict[str, Any]:
    """Return how numbers are computed, and the engine's other plugins, as it takes them."""
    if settings.precision == "16-mixed":
        return {"plugins": [*plugins, half_precision()]}
    return {"precision": settings.precision, "plugins": list(plugins)}


def _processes() -> tuple[int, int]:
    """Return how many processes the run has, and how many of them are on this machine."""
    count = int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    if count % local:
        raise ValueError(f"{count} processes, {local} of them on this machine. Start as many on every machine.")
    gpus = torch.cuda.device_count()
    if 0 < gpus < local:
        raise ValueError(
            f"{local} processes on this machine, which has {gpus} GPUs. Start torchrun with --nproc_per_node {gpus}."
        )
    return count, local


def _meet_anew(count: int) -> None:
    """Connect the processes that torchrun started again, over the store that those before them used.

    Torch's own way would wait there for as many processes as have come already. The engine takes the connection as
    it is.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # documented, but not in __all__

    address, port, restart = (os.environ[n] for n in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"))
    shared = TCPStore(address, int(port), count, is_master=False, wait_for_workers=False)
    store = PrefixStore(f"restart_{restart}", shared)
    rank, device = int(os.environ["RANK"]), None
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(
        "gloo" if device is None else "nccl", store=store, rank=rank, world_size=count, device_id=device
    )


def _environment() -> Any:
    """Return torchrun's variables as the engine reads them, on a Slurm cluster too."""
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    return TorchElasticEnvironment()


def _strategy(settings: Settings, count: int) -> Any:
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if settings.strategy == "ddp":
        return DDPStrategy(gradient_as_bucket_view=True)
    return ModelParallelStrategy(_shard, data_parallel_size=count, tensor_parallel_size=1)


def _shard(network: nn.Module, mesh: Any) -> nn.Module:
    """Shard each large layer by itself and the rest with the whole network.

    Layers are called as they are, while the forward of a block may be passed over by a network that picks features
    out of it: then nobody would gather its weights.
    """
    from torch.distributed.fsdp import fully_shard

    # Outputs may be views: no loss writes into them, which is what torch warns of.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    places = mesh["data_parallel"]
    for layer in network.modules():
        if sum(parameter.numel() for parameter in layer.parameters(recurse=False)) >= SMALLEST_SHARD:
            fully_shard(layer, mesh=places)
    fully_shard(network, mesh=places)
    return network


SMALLEST_SHARD = 2**20
"""Weights of a layer that is gathered on its own; smaller ones travel together."""


def set_up(fabric: Fabric, network: nn.Module, optimizer: Optimizer, *, channels_last: bool) -> tuple[Any, Any]:
    """Hand network and optimizer to the engine.

    Batch normalization sees the pictures of all processes on GPUs. On CPUs, for which torch has no such layer, each
    process normalizes by its own pictures of a micro-batch.

    Args:
        fabric: the engine.
        network: changed in place where it is sharded.
        optimizer: over its parameters; follows them to their shards.
        channels_last: whether weights lie channel by channel in memory; not for weights that are to be sharded.

    Returns:
        Both, as the engine runs them.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    if channels_last:
        network.to(memory_format=torch.channels_last)
    module = fabric.setup_module(network)
    now = dict(network.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [now[names[id(parameter)]] for parameter in group["params"]]
    return module, fabric.setup_optimizers(optimizer)


def share_from_first(tensors: Iterable[Tensor], ranks: Ranks) -> None:
    """Give all processes the first one's values: of weights before they are sharded, of running statistics.

    Args:
        tensors: plain ones, on the host or on the device of the run; changed in place.
        ranks: of the run; all must call it.
    """
    if ranks.count > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0, group=ranks.group if tensor.device.type == "cpu" else None)


def whole(tree: Any, *, keep: bool = True) -> Any:
    """Gather what is sharded in nested mappings and lists, one tensor at a time; all processes must call it.

    Args:
        tree: a state dict.
        keep: whether this process wants what it helps to gather.

    Returns:
        The same, with plain tensors on the host in place of sharded ones; empty ones where they are not wanted.
    """

    def gathered(tensor: Tensor) -> Tensor:
        if not hasattr(tensor, "full_tensor"):
            return tensor
        full: Tensor = tensor.full_tensor()
        return full.cpu() if keep else torch.empty(0)

    return mapped(tree, gathered)


def load_network(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network, sharded or not, the weights of a whole state dict.

    Args:
        network: on every process.
        state: of plain tensors.
    """
    own = network.state_dict()
    network.load_state_dict({name: _like(own[name], value) if name in own else value for name, value in state.items()})


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Give an optimizer, its parameters sharded or not, a whole state dict.

    Args:
        optimizer: on every process.
        state: of plain tensors.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {number: mapped(each, partial(_like, parameters[number])) for number, each in state["state"].items()}
    optimizer.load_state_dict({**state, "state": moments})


def _like(own: Any, value: Tensor) -> Tensor:
    """Shard a tensor as one of the same shape is; step counters and plain tensors stay."""
    if not hasattr(own, "placements") or own.shape != value.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


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
        step: optimizer steps done.
        rank: of this process.
    """
    import random

    import numpy as np

    mixed = deterministic_seed(seed, step, rank)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002  the global state is what is meant
    torch.manual_seed(mixed)
