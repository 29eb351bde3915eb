"""(f) One rank: nccl (gloo on the CPU) under DistributedDataParallel and FSDP2, with pooled counts and open books."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import headwise as hw
from benchmarks.gpu.bench import Bench, Run, Way
from benchmarks.gpu.networks import ManyHeads, head_terms, heads_batch
from benchmarks.gpu.report import Table

NOTE = (
    "Pooled: `pool_denominators` over the group before each step. FSDP2 in bf16 keeps batch normalization and the "
    "outputs in float32."
)


def run(bench: Bench) -> Iterator[Table]:
    image, targets = heads_batch(bench, *bench.pick((8, 256), (1, 64), (1, 32)))
    with group(bench):
        table = Table("eight heads on ResNet-50 and a feature pyramid", "alone", NOTE)
        ways: dict[str, Way] = {"alone": partial(stepping, alone, bench, image, targets)}
        for name, wrap in {"DDP": distributed, "FSDP2": sharded, "FSDP2 in bf16": halved}.items():
            ways[name] = partial(stepping, wrap, bench, image, targets)
            ways[f"{name}, pooled, ledger"] = partial(stepping, wrap, bench, image, targets, pooled=True, ledger=True)
        table.add("", bench.compare(ways))
        yield table


@contextmanager
def group(bench: Bench) -> Iterator[None]:
    """A process group of this process alone."""
    backend = "nccl" if bench.device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo")
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def network_of(bench: Bench) -> ManyHeads:
    torch.manual_seed(0)
    return ManyHeads(bench.pick(50, 18, 0)).to(bench.device)


def alone(bench: Bench) -> nn.Module:
    return network_of(bench)


def distributed(bench: Bench) -> nn.Module:
    return DistributedDataParallel(network_of(bench))


def sharded(bench: Bench, dtype: torch.dtype | None = None) -> nn.Module:
    network, mesh = network_of(bench), init_device_mesh(bench.device.type, (1,))
    if dtype is not None:
        # Batch normalization keeps its statistics, and so its weights, in float32; it takes bf16 all the same.
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    for part in (*network.stages, *network.heads.values()):
        fully_shard(part, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=dtype))
    whole = MixedPrecisionPolicy(param_dtype=dtype, output_dtype=torch.float32)
    fully_shard(network, mesh=mesh, mp_policy=whole)
    return network


def halved(bench: Bench) -> nn.Module:
    return sharded(bench, torch.bfloat16)


def stepping(
    wrap: Any, bench: Bench, image: torch.Tensor, targets: Any, *, pooled: bool = False, ledger: bool = False
) -> Run:
    """Forward, loss, backward and SGD of one wrapping."""
    network, criterion = wrap(bench), head_terms()
    books = hw.Ledger(criterion) if ledger else None
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)

    def run() -> object:
        optimizer.zero_grad(set_to_none=True)
        denominators = hw.pool_denominators(criterion, [targets]) if pooled else None
        criterion(network(image), targets, denominators).total.backward()
        optimizer.step()
        return books

    run()
    if books is not None:
        check_books(books)
    return run


def check_books(books: hw.Ledger) -> None:
    """Every term arrived, with a gradient that is a number above 0."""
    for name, row in books.read().items():
        if not float(row.grad_norm) > 0:
            raise AssertionError(f"the books of {name!r} hold the norm {row.grad_norm}")
