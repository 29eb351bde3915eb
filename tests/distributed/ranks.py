"""Runs a function on several gloo ranks, in processes of their own, and brings their results back."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessRaisedException, spawn


def _main(rank: int, world: int, folder: str, function: Callable[[int, int], Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    try:
        torch.save(function(rank, world), Path(folder) / f"{rank}.pt")
    except BaseException:
        (Path(folder) / f"{rank}.error").write_text(traceback.format_exc())
        raise
    finally:
        dist.destroy_process_group()


def on_ranks(function: Callable[[int, int], Any], world: int = 2) -> list[Any]:
    """Calls ``function(rank, world)`` on every rank; the results by rank."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            spawn(_main, (world, folder, function), nprocs=world)
        except ProcessRaisedException as error:
            texts = [path.read_text() for path in sorted(Path(folder).glob("*.error"))]
            raise AssertionError("\n".join(texts)) from error
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]
