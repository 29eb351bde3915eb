"""One process with the whole batch against ranks and uneven micro-batches under DDP: the same gradient, every preset.

The last rank of three has no object at all. Beside the error stands that of the usual mean of means.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import headwise as hw
from headwise import losses
from headwise.structure import mapped_by_path
from tests.distributed.ranks import on_ranks
from tests.presets.samples import PRESETS, sample

SHARES = {1: [18], 2: [5, 13], 3: [5, 7, 6]}
NUM_WITH_OBJECTS = 12
MICRO_BATCHES = (1, 2, 5)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
DTYPES = tuple(TOLERANCE)
NAMES = (*PRESETS, "dice")


class Head(nn.Module):
    """A scale and a shift per channel of every output, so that all images meet in few parameters."""

    def __init__(self, outputs: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.scales = nn.ParameterDict()
        mapped_by_path(outputs, partial(self._add, dtype))

    def _add(self, dtype: torch.dtype, path: str, tensor: Tensor) -> Tensor:
        shape = (1, tensor.shape[1], *(1 for _ in tensor.shape[2:]))
        start = torch.linspace(0.5, 1.5, tensor.shape[1], dtype=dtype).reshape(shape)
        self.scales[_key(path)] = nn.Parameter(torch.stack([start, start - 1]))
        return tensor

    def forward(self, images: Any) -> Any:
        return mapped_by_path(images, lambda path, each: each * self.scales[_key(path)][0] + self.scales[_key(path)][1])


def _key(path: str) -> str:
    return path.replace(".", "/")


def problem(name: str, dtype: torch.dtype) -> tuple[hw.Criterion, Any, Any]:
    if name != "dice":
        return sample(name, 18, empty=NUM_WITH_OBJECTS, dtype=dtype)  # type: ignore[no-any-return]
    _, outputs, targets = sample("weighted_unet, mean", 18, empty=NUM_WITH_OBJECTS, dtype=dtype)
    label = targets["label"].unsqueeze(1).expand(-1, 2, -1, -1)
    terms = [hw.RatioTerm("overlap", losses.dice, output="logits", target="label")]
    return hw.Criterion(terms), outputs, {"label": label}


def micro_sizes(num: int, parts: int) -> list[int]:
    """Sizes 1, 1, ..., and the rest in the last."""
    return [1] * (parts - 1) + [num - parts + 1]


def images_of(structure: Any, begin: int, size: int) -> Any:
    return mapped_by_path(structure, lambda _, each: each[begin : begin + size])


def step(network: nn.Module, criterion: hw.Criterion, micro: list[tuple[Any, Any]], group: Any, exact: bool) -> Tensor:
    """One step's gradient; by totaled sums, or as the usual mean of means."""
    network.zero_grad()
    pooled: dict[str, Any] | None = None
    if exact:
        outputs = ((network(images), targets) for images, targets in micro)
        pooled = {**hw.pool_denominators(criterion, [targets for _, targets in micro], group)}
        if not all(isinstance(term, hw.Term) for term in criterion.terms):
            pooled |= hw.pool_ratios(criterion, outputs, group)
    for number, (images, targets) in enumerate(micro):
        last = number == len(micro) - 1
        waits = isinstance(network, DistributedDataParallel) and not last
        with network.no_sync() if waits else nullcontext():  # type: ignore[operator]
            total = criterion(network(images), targets, pooled).total
            (hw.undo_averaging(total, group=group) if exact else total / len(micro)).backward()
    return torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None])


def errors(rank: int, name: str, dtype: torch.dtype, groups: dict[int, Any]) -> dict[tuple[int, int], list[float]]:
    criterion, outputs, targets = problem(name, dtype)
    alone = Head(outputs, dtype)
    criterion(alone(outputs), targets).total.backward()
    whole = torch.cat([each.grad.flatten() for each in alone.parameters() if each.grad is not None])
    found = {}
    for num_ranks, shares in SHARES.items():
        if rank >= num_ranks:
            continue
        network = DistributedDataParallel(Head(outputs, dtype), process_group=groups[num_ranks])
        for num_parts in MICRO_BATCHES:
            begin, micro = sum(shares[:rank]), []
            for size in micro_sizes(shares[rank], num_parts):
                micro.append((images_of(outputs, begin, size), images_of(targets, begin, size)))
                begin += size
            ways = (True, False) if (num_ranks, num_parts) == (3, 5) else (True,)
            steps = [step(network, criterion, micro, groups[num_ranks], exact) for exact in ways]
            found[num_ranks, num_parts] = [float((each - whole).norm() / whole.norm()) for each in steps]
    return found


def all_errors(rank: int, world: int) -> dict[tuple[str, torch.dtype], dict[tuple[int, int], list[float]]]:
    groups = {num: dist.new_group(list(range(num))) for num in SHARES}
    return {(name, dtype): errors(rank, name, dtype, groups) for name in NAMES for dtype in DTYPES}


@pytest.fixture(scope="module")
def results() -> list[Any]:
    return on_ranks(all_errors, 3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_any_split_has_the_gradient_of_the_whole_batch(results, name, dtype):
    ours = {(rank, key): value[0] for rank in range(3) for key, value in results[rank][name, dtype].items()}
    assert len(ours) == 3 * (1 + 2 + 3)
    assert max(ours.values()) <= TOLERANCE[dtype], ours
    usual = results[0][name, dtype][3, 5][1]
    assert usual > 0.05, "the mean of means should be wrong here, or the sample is too even to tell"
