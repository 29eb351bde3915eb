"""What becomes of loading processes when something goes wrong."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from headwise.data.annotation import Picture, TextAnnotation
from headwise.data.loading import BatchSampler, seeded_loader


class Numbers:
    """Pictures that know their number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Picture:
        return Picture(str(index), np.zeros((1, 1, 3), np.uint8), TextAnnotation((), (), ()))


def prepare(picture: Picture, seed: int) -> torch.Tensor:
    return torch.full((4,), float(picture.name))


def batches() -> Iterator[Any]:
    sampler = BatchSampler(10, 2, seed=3, last_step=50)
    return iter(seeded_loader(Numbers(), prepare, torch.stack, sampler, num_workers=1))


def test_a_full_shared_memory_is_an_error_and_no_wait_for_ever(monkeypatch):
    """Where torch itself moves a batch there, in a thread, nobody hears of it."""

    def full(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(RuntimeError, match="unable to allocate shared memory"):
        next(batches())


def test_a_scheduler_s_sigterm_is_left_to_the_loop_and_the_loop_s_own_ends_them():
    before, stream = set(multiprocessing.active_children()), batches()
    next(stream)
    (child,) = set(multiprocessing.active_children()) - before
    for _ in range(3):
        subprocess.run(["kill", "-TERM", str(child.pid)], check=True)
    for _ in range(10):
        next(stream)
    assert child.is_alive()
    os.kill(child.pid or 0, signal.SIGTERM)
    child.join(20)
    assert child.exitcode == 0


STOPPED = """
import multiprocessing, os, signal, time
from headwise.training.processes.interrupts import end_daemons_at_exit

child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
child.start()
os.kill(child.pid, signal.SIGSTOP)
end_daemons_at_exit()
raise RuntimeError("the run fails")
"""


def test_a_stopped_loading_process_does_not_keep_a_failing_run():
    """Python asks it to end and waits, and a stopped process hears nothing."""
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "the run fails" in done.stderr
