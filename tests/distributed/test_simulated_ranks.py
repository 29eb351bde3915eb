"""What a step costs in collectives on 1,024 ranks: counted on one, the others are a fake process group of torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import headwise as hw
from headwise import losses

WORLD = 1024


@pytest.fixture
def world() -> Iterator[int]:
    dist.init_process_group("fake", rank=0, world_size=WORLD, store=FakeStore())
    yield WORLD
    dist.destroy_process_group()


class Collectives(TorchDispatchMode):
    """Counts the collectives that are called, and the bytes that each rank gives."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in {"c10d", "_c10d_functional"}:
            self.names.append(str(func.overloadpacket))
            given = [each for each in tree_leaves(args) if isinstance(each, torch.Tensor)]
            self.num_bytes += sum(each.numel() * each.element_size() for each in given)
        return func(*args, **(kwargs or {}))


def criterion_of(num_terms: int) -> hw.Criterion:
    return hw.Criterion(
        [hw.Term(f"t{k}", losses.squared_error, output=f"y{k}", target=f"t{k}", mask=f"m{k}") for k in range(num_terms)]
    )


def step(num_terms: int, num_samples: int, *, read: bool) -> Collectives:
    """A step of two micro-batches with totaled counts and open books, read over all ranks at its end."""
    torch.manual_seed(0)
    criterion = criterion_of(num_terms)
    ledger = hw.Ledger(criterion)
    parts = []
    for _ in range(2):
        outputs = {f"y{k}": torch.randn(num_samples, 2, requires_grad=True) for k in range(num_terms)}
        targets = {f"t{k}": torch.randn(num_samples, 2) for k in range(num_terms)}
        targets |= {f"m{k}": torch.rand(num_samples) > 0.5 for k in range(num_terms)}
        parts.append((outputs, targets))
    found = Collectives()
    with found:
        denominators = hw.pool_denominators(criterion, [targets for _, targets in parts])
        for outputs, targets in parts:
            hw.undo_averaging(criterion(outputs, targets, denominators).total).backward()
        ledger.step()
        if read:
            ledger.read(across_ranks=True)
    ledger.close()
    return found


@pytest.mark.parametrize("num_terms", [3, 40])
def test_denominators_are_one_all_reduce_of_a_number_a_term(world, num_terms):
    found = step(num_terms, 4, read=False)
    assert len(found.names) == 1, found.names
    assert found.num_bytes <= 8 * num_terms


def test_books_of_all_ranks_are_two_all_reduces_whose_size_no_rank_adds_to(world):
    before, found = step(3, 4, read=False), step(3, 4, read=True)
    assert found.names == ["c10d.allreduce_"] * 3
    assert found.num_bytes - before.num_bytes <= 8 * (2 * 65 + 10 + 20 * 3)


def test_nothing_grows_with_samples(world):
    few, many = (step(3, number, read=True) for number in (2, 500))
    assert (few.names, few.num_bytes) == (many.names, many.num_bytes)
