"""A stream of batches that is a function of the seed and the step alone.

The order of an epoch, the augmentation of a sample and what a worker does are derived from (seed, epoch,
index), never from a global random state. A run that is resumed at step s therefore sees exactly the batches
that it would have seen, with any number of workers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Generic, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from headwise.data.annotation import Annotation, Picture, PictureDataset
from headwise.structure import leaves
from headwise.whole import check_whole, is_whole

_ORDER, _SAMPLE = 0, 1


class SampleKey(NamedTuple):
    """Which picture, and in which epoch."""

    epoch: int
    picture: int


class BatchSampler(Sampler[list[SampleKey]]):
    """The batches of a run from one step to another, or one process's micro-batches of them.

    Epochs are permutations, one after the other; a batch may hold the end of one and the beginning of the next. Every
    step takes `batch_size` pictures of the stream, whatever the number of processes, which share them without
    overlap; where they do not share evenly, some parts hold one picture more.

    Args:
        num_samples: pictures in the data set.
        batch_size: of a step, over all processes.
        seed: of the order.
        first_step: where to begin; 0 for a fresh run.
        last_step: where to end (exclusive).
        rank: of this process.
        num_ranks: processes that share each step's pictures.
        micro_batches: parts into which each process splits its share.

    Raises:
        ValueError: nothing to sample from, a rank beyond their number, or a batch that would leave a part empty.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int,
        first_step: int = 0,
        last_step: int,
        rank: int = 0,
        num_ranks: int = 1,
        micro_batches: int = 1,
    ) -> None:
        if not (is_whole(num_samples, 1) and is_whole(batch_size, 1)):
            raise ValueError(f"{num_samples!r} pictures in batches of {batch_size!r}: both must be at least 1.")
        check_whole("BatchSampler", 0, seed=seed, first_step=first_step, last_step=last_step)
        if not 0 <= rank < num_ranks or micro_batches < 1:
            raise ValueError(
                f"rank {rank} of {num_ranks} with {micro_batches} micro-batches: ranks count from 0, and each takes at "
                "least one micro-batch."
            )
        parts = num_ranks * micro_batches
        if batch_size < parts:
            raise ValueError(
                f"a batch of {batch_size} pictures cannot be split over {num_ranks} processes with {micro_batches} "
                f"micro-batches each. Use a batch of at least {parts}, or fewer parts."
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.steps = range(first_step, last_step)
        self.parts = range(rank * micro_batches, (rank + 1) * micro_batches)
        self.num_parts = parts

    def __len__(self) -> int:
        return len(self.steps) * len(self.parts)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in self.steps:
            for part in self.parts:
                places = (part * self.batch_size // self.num_parts, (part + 1) * self.batch_size // self.num_parts)
                yield [self.key(step * self.batch_size + place) for place in range(*places)]

    def key(self, position: int) -> SampleKey:
        """Return the sample at a position of the whole stream, counted from the first step of the run."""
        epoch, place = divmod(position, self.num_samples)
        return SampleKey(epoch, int(_order(self.seed, epoch, self.num_samples)[place]))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    generator = np.random.default_rng(np.random.SeedSequence((seed, _ORDER, epoch)))
    return generator.permutation(num_samples)


def sample_seed(seed: int, key: SampleKey) -> int:
    """Return the seed of everything random about one sample, in [0, 2**63)."""
    sequence = np.random.SeedSequence((seed, _SAMPLE, key.epoch, key.picture))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


class _Prepared(Dataset[Any], Generic[Annotation]):
    """Pictures by key, prepared with the key's own seed."""

    def __init__(
        self, pictures: PictureDataset[Annotation], prepare: Callable[[Picture[Annotation], int], Any], seed: int
    ) -> None:
        self.pictures = pictures
        self.prepare = prepare
        self.seed = seed

    def __getitem__(self, key: SampleKey) -> Any:
        return self.prepare(self.pictures[key.picture], sample_seed(self.seed, key))


def seeded_loader(
    pictures: PictureDataset[Annotation],
    prepare: Callable[[Picture[Annotation], int], Any],
    collate: Callable[[list[Any]], Any],
    sampler: BatchSampler,
    *,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Return a loader whose batches depend on the sampler's seed and steps alone.

    Args:
        pictures: the data set.
        prepare: (picture, seed) -> sample; all of its randomness must come from the seed.
        collate: samples -> batch.
        sampler: the order.
        num_workers: processes; any number gives the same batches.
        pin_memory: page-locked batches, for a GPU.

    Returns:
        An iterable of batches, one per step.
    """
    return DataLoader(
        _Prepared(pictures, prepare, sampler.seed),
        batch_sampler=sampler,
        collate_fn=_Shared(collate),
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=live_for_the_loop,
    )


class _Shared:
    """A collation whose tensors are in shared memory when it returns, where it is done by a loading process.

    Torch would move them there in a thread of the loading process, where nobody hears an error, of a full ``/dev/shm``
    for instance: the loop would wait for ever.

    Args:
        collate: samples -> batch.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        batch = self.collate(samples)
        if get_worker_info() is not None:
            for _, tensor in leaves(batch):
                tensor.share_memory_()  # type: ignore[no-untyped-call]
        return batch


def live_for_the_loop(worker: int) -> None:
    """Leave signals to the loop, which ends its step first, and end with it.

    Terminals and schedulers send signals to all processes; what its own process sends is meant. Torch's workers notice
    within five seconds that their process was killed, and hold its connections open until then: nobody else would know
    of the loss.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(loop: int) -> None:
    """End at a SIGTERM of the process that this one loads for, with the code that torch gives there."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != loop:
        pass
    os._exit(0)


_PR_SET_PDEATHSIG = 1
