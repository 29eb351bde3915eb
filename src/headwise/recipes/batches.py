"""The batches of any range of steps, from pictures, a preparation and a coder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwise.recipes.configuration import Configuration
from headwise.training import Batch
from headwise.training.ranks import Ranks

if TYPE_CHECKING:
    from headwise.data import Picture, PictureDataset


@dataclass(frozen=True)
class Batches:
    """What `Task` asks for batches.

    Args:
        pictures: the training pictures.
        prepare: (picture, seed) -> sample; all of its randomness comes from the seed.
        collate: samples -> batch; runs in the loading processes too.
        configuration: of the run: its batch size, seed and number of processes.
    """

    pictures: PictureDataset[Any]
    prepare: Callable[[Picture[Any], int], Any]
    collate: Callable[[list[Any]], Batch]
    configuration: Configuration

    def __call__(self, first_step: int, last_step: int, micro_batches: int, ranks: Ranks) -> Iterable[Batch]:
        """Return this process's micro-batches of these steps."""
        from headwise.data import BatchSampler, seeded_loader
        from headwise.data.skipping import Skipping

        sampler = BatchSampler(
            len(self.pictures),
            self.configuration.batch_size,
            seed=self.configuration.seed,
            first_step=first_step,
            last_step=last_step,
            rank=ranks.rank,
            num_ranks=ranks.count,
            micro_batches=micro_batches,
        )
        loader = seeded_loader(
            self.pictures, self.prepare, self.collate, sampler, num_workers=self.configuration.num_workers
        )
        return self.pictures.counted(loader) if isinstance(self.pictures, Skipping) else loader
