"""One step of all ranks: they agree on what its columns mean before they add anything up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.ledger.ring import StepRows
from headwise.attribution.ledger.schema import Schema
from headwise.criterion.pooling import is_distributed


def step_over_ranks(step: StepRows | None, group: Any) -> StepRows | None:
    """The same step with the rows of all ranks: two all-reduces, whose sizes do not depend on the number of ranks.

    Where no process group was made, this process is all there is.

    Args:
        step: This rank's; None where it has none.
        group: The process group; None means the default one.

    Returns:
        The sum; None where nothing was booked in the only process.

    Raises:
        ValueError: The ranks' steps read different outputs; raised on all of them.
    """
    if not is_distributed():
        return None if step is None else replace(step, scope="global")
    schema = None if step is None else step.schema
    core, every = _are_alike(schema, group)
    if not core or step is None:
        found: list[Any] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(found, _told(schema), group=group)
        told = "; ".join(f"{_ranks(found, each)}: {each}" for each in dict.fromkeys(found))
        raise ValueError(
            "read(across_ranks=True) pools the last step of every rank, of the same terms and outputs; found "
            f"{told}. Let every rank run the same criterion on outputs of one structure, or read each by itself"
        )
    step = step if every else _widened(step, group)
    return replace(step, row=_reduced(step.row, torch.distributed.ReduceOp.SUM, group), scope="global")


def _are_alike(schema: Schema | None, group: Any) -> tuple[bool, bool]:
    """Whether all ranks hold rows of one core, and of one schema: they agree on that before they add anything up."""
    parts = (None, None) if schema is None else (schema.core, schema)
    digests = [hashlib.sha256(repr(each).encode()).digest() for each in parts]
    mine = torch.tensor([float(schema is not None), *digests[0], *digests[1]], dtype=torch.float64)
    largest, least = _reduced(torch.stack((mine, -mine)), torch.distributed.ReduceOp.MAX, group)
    same = (largest == -least).tolist()
    core = all(same[: 1 + len(digests[0])]) and bool(largest[0])
    return core, core and all(same)


def _widened(step: StepRows, group: Any) -> StepRows:
    """A row with the columns of all ranks, where losses inside of a network were booked on some of them."""
    found: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(found, (step.schema.booked, step.schema.aggregated), group=group)
    core = step.schema.core
    schema = core.wider(()).joined([core.wider(*each) for each in found])
    return replace(step, schema=schema, row=schema.widen(step.row, step.schema))


def _reduced(numbers: Tensor, how: Any, group: Any) -> Tensor:
    """Numbers of the host, reduced over ranks, on the host again."""
    found = numbers.to("cuda") if torch.distributed.get_backend(group) == "nccl" else numbers.clone()
    torch.distributed.all_reduce(found, how, group=group)
    return found.cpu()


def _ranks(found: Sequence[str], told: str) -> str:
    ranks = [rank for rank, each in enumerate(found) if each == told]
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"{len(ranks)} ranks from {ranks[0]} on"


def _told(schema: Schema | None) -> str:
    return "no step" if schema is None else ", ".join(sorted({reading.path for reading in schema.readings}))
