"""Held-out pictures: boxes found, scored by COCO's rules, and saved for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import torch
from torch import nn

from headwise.recipes.batches import Batches
from headwise.recipes.boxes.configuration import BoxConfiguration, read_pictures
from headwise.recipes.run import Data
from headwise.runs.samples import PointPairs, SampleMap, box_shapes, save_sample
from headwise.training import Batch
from headwise.training.box_evaluation import evaluate_boxes
from headwise.training.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from headwise.data import BoxAnnotation, BoxDataset, Picture

B = TypeVar("B", bound=BoxConfiguration)
Found = Mapping[str, Any]

SHOWN_SCORE = 0.3
"""Boxes below it are left out of pictures, not of scores."""


class Panels(NamedTuple):
    """What of a network's outputs is shown beside a held-out picture.

    Args:
        maps: output maps with their targets.
        pairs: numbers on a line.
        note: how to read them.
    """

    maps: list[SampleMap]
    pairs: list[PointPairs]
    note: str = ""


Reader = Callable[[nn.Module, B, "Sequence[NDArray[np.uint8]]"], list[Found]]
Show = Callable[[nn.Module, B, "Picture[BoxAnnotation]"], Panels]


@dataclass(frozen=True)
class BoxEvaluation(Generic[B]):
    """What `Task` asks for scores.

    Args:
        pictures: held out.
        configuration: of the run.
        read: (network in evaluation mode, configuration, pictures (H, W, 3) uint8) -> for each ``boxes`` in pixels
            of the picture, ``scores``, ``labels``, on the CPU, the best first.
        show: (network, configuration, picture) -> panels of the report.
        num_samples: how many pictures are saved for the report.
    """

    pictures: BoxDataset
    configuration: B
    read: Reader[B]
    show: Show[B]
    num_samples: int = 6

    def __call__(self, network: nn.Module, samples: Path | None, ranks: Ranks) -> Mapping[str, Any]:
        """Return COCO's numbers, per class too, and ``num_images``; see `evaluate_boxes`."""
        pairs = []
        with evaluating(network):
            for index in ranks.share(len(self.pictures)):
                picture = self.pictures[index]
                (found,) = self.read(network, self.configuration, [picture.image])
                pairs.append((found, picture.annotation))
                if samples is not None and index < self.num_samples:
                    self._save(samples, index, network, picture, found)
        everything = ranks.gather(pairs)
        known = [annotation for _, annotation in everything]
        scores = evaluate_boxes([found for found, _ in everything], known, self.configuration.class_names)
        return {**scores, "num_images": len(self.pictures)}

    def _save(
        self, folder: Path, index: int, network: nn.Module, picture: Picture[BoxAnnotation], found: Found
    ) -> None:
        known, names = picture.annotation, self.configuration.class_names
        panels = self.show(network, self.configuration, picture)
        save_sample(
            folder,
            index,
            picture.image,
            annotated=box_shapes(known.boxes, known.labels, names, ignored=known.ignored),
            found=box_shapes(found["boxes"], found["labels"], names, scores=found["scores"], least_score=SHOWN_SCORE),
            maps=panels.maps,
            pairs=panels.pairs,
            note=panels.note,
        )


def box_data(
    configuration: B,
    prepare: Callable[[Picture[BoxAnnotation], int], Any],
    collate: Callable[[list[Any]], Batch],
    read: Reader[B],
    show: Show[B],
) -> Data:
    """Return the data of a detector's run.

    Args:
        configuration: of the run.
        prepare: as in `Batches`.
        collate: as in `Batches`.
        read: as in `BoxEvaluation`.
        show: as in `BoxEvaluation`.

    Returns:
        Batches and evaluation.
    """
    pictures, held_out = read_pictures(configuration)
    batches = Batches(pictures, prepare, collate, configuration)
    return Data(batches, BoxEvaluation(held_out, configuration, read, show), (len(pictures), len(held_out)))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients, and back.

    Args:
        network: left in the mode in which it was.

    Yields:
        Nothing.
    """
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)
