from typing import Any

import numpy as np
import pytest
import torch

from headwise.data.annotation import Picture, TextAnnotation
from headwise.data.augmentation.text import TextAugmentation
from headwise.data.embedded.text import embedded_text
from headwise.data.loading import BatchSampler, SampleKey, sample_seed, seeded_loader


class Numbers:
    """Pictures that know their number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Picture:
        return Picture(str(index), np.zeros((1, 1, 3), np.uint8), TextAnnotation((), (), ()))


def prepare(picture: Picture, seed: int) -> tuple[int, int]:
    return int(picture.name), seed


def batches(first: int, last: int, num_workers: int = 0) -> list[Any]:
    sampler = BatchSampler(10, 4, seed=3, first_step=first, last_step=last)
    return list(seeded_loader(Numbers(), prepare, list, sampler, num_workers=num_workers))


def test_every_epoch_is_a_permutation_of_its_own():
    sampler = BatchSampler(10, 4, seed=3, last_step=10)
    keys = [key for batch in sampler for key in batch]
    epochs = [[key.picture for key in keys if key.epoch == epoch] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len(sampler) == 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_stream_continues_the_first(num_workers):
    whole = batches(0, 9)
    assert batches(5, 9, num_workers) == whole[5:]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_processes_and_micro_batches_share_each_step(num_ranks, micro_batches):
    """Whatever the split, the pictures of a step are the same, each in one part, and no part is empty."""
    alone = list(BatchSampler(10, 7, seed=3, last_step=5))
    samplers = [
        BatchSampler(10, 7, seed=3, last_step=5, rank=rank, num_ranks=num_ranks, micro_batches=micro_batches)
        for rank in range(num_ranks)
    ]
    parts = [list(sampler) for sampler in samplers]
    for rank, sampler in enumerate(samplers):
        assert len(sampler) == len(parts[rank]) == 5 * micro_batches
    for step in range(5):
        own = [rank[step * micro_batches : (step + 1) * micro_batches] for rank in parts]
        assert all(part for rank in own for part in rank)
        assert [key for rank in own for part in rank for key in part] == alone[step]


def test_a_split_that_leaves_a_part_empty_is_refused():
    with pytest.raises(ValueError, match="batch of 7 pictures cannot be split over 3 processes with 3 micro-batches"):
        BatchSampler(10, 7, seed=3, last_step=5, num_ranks=3, micro_batches=3)


@pytest.mark.parametrize(("rank", "num_ranks", "micro_batches"), [(2, 2, 1), (-1, 2, 1), (0, 0, 1), (0, 1, 0)])
def test_a_rank_beyond_their_number_is_refused(rank, num_ranks, micro_batches):
    """It took the next step's pictures, as its first process does."""
    with pytest.raises(ValueError, match=f"rank {rank} of {num_ranks} with {micro_batches} micro-batches"):
        BatchSampler(10, 4, seed=0, last_step=1, rank=rank, num_ranks=num_ranks, micro_batches=micro_batches)


def test_seeds_differ_between_epochs_pictures_and_runs():
    keys = [SampleKey(epoch, picture) for epoch in range(3) for picture in range(3)]
    seeds = {sample_seed(seed, key) for seed in (0, 1) for key in keys}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_workers_give_the_same_augmented_pictures_whatever_the_global_state():
    def stack(samples: list[Any]) -> torch.Tensor:
        return torch.stack([image for image, _ in samples])

    def first(num_workers: int, state: int) -> torch.Tensor:
        torch.manual_seed(state)
        sampler = BatchSampler(6, 3, seed=1, last_step=2)
        data = embedded_text(num_pictures=6, size=96)
        loader = seeded_loader(data, TextAugmentation(64), stack, sampler, num_workers=num_workers)
        return torch.cat(list(loader))

    assert torch.equal(first(0, 0), first(2, 77))


def test_nothing_to_sample_is_an_error():
    with pytest.raises(ValueError, match="0 pictures in batches of 4"):
        BatchSampler(0, 4, seed=0, last_step=1)
    with pytest.raises(ValueError, match="BatchSampler: first_step is at least 0, found -3"):
        BatchSampler(8, 4, seed=0, first_step=-3, last_step=1)
