"""The batches of any range of steps, from pictures, a preparation and a coder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwise.recipes.configuration import Configuration
from headwise.runs.top_samples import Shown
from headwise.training import Batch
from headwise.training.ranks import Ranks

if TYPE_CHECKING:
    from headwise.data import Picture, PictureDataset, SampleKey


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
        from headwise.data.checks.skipping import Skipping

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
        batches = self.pictures.counted(loader) if isinstance(self.pictures, Skipping) else loader
        return _with_ids(batches, sampler)

    def show(self, number: int) -> Shown:
        """Return a training picture with its annotation drawn on it.

        Args:
            number: of the picture, by which batches name it.

        Returns:
            Its name and picture.
        """
        from headwise.data.annotated import draw_annotation

        picture = self.pictures[number]
        classes = getattr(self.configuration, "class_names", ())
        return Shown(picture.name, draw_annotation(picture, classes))


def _with_ids(batches: Iterable[Batch], keys: Iterable[Sequence[SampleKey]]) -> Iterator[Batch]:
    """Name the samples of each batch by the numbers of their pictures."""
    stream, names = iter(batches), iter(keys)
    for batch in stream:
        yield batch._replace(ids=[key.picture for key in next(names)])
