"""Held-out pictures: boxes found, scored by COCO's rules, and saved for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from torch import nn

from headwise.evaluation.boxes import evaluate_boxes
from headwise.evaluation.held_out import HeldOut
from headwise.recipes.batches import Batches
from headwise.recipes.boxes.configuration import BoxConfiguration, read_pictures
from headwise.recipes.run import Data
from headwise.runs.samples import PointPairs, SampleMap, box_shapes, save_sample
from headwise.training import Batch

if TYPE_CHECKING:
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


def held_out_boxes(pictures: BoxDataset, configuration: B, read: Reader[B], show: Show[B]) -> HeldOut[Found]:
    """Return the evaluation of a detector on annotated pictures.

    Args:
        pictures: held out.
        configuration: of the run.
        read: (network in evaluation mode, configuration, pictures (H, W, 3) uint8) -> for each ``boxes`` in pixels of
            the picture, ``scores``, ``labels``, on the CPU, the best first.
        show: (network, configuration, picture) -> panels of the report.

    Returns:
        Called, it gives COCO's numbers, per class too, and ``num_images``; see `evaluate_boxes`.
    """
    names = configuration.class_names

    def save(folder: Path, index: int, network: nn.Module, picture: Picture[BoxAnnotation], found: Found) -> None:
        known, panels = picture.annotation, show(network, configuration, picture)
        save_sample(
            folder,
            index,
            picture.image,
            annotated=box_shapes(known.boxes, known.labels, names, ignored=known.ignored),
            found=box_shapes(found["boxes"], found["labels"], names, scores=found["scores"], least_score=SHOWN_SCORE),
            maps=panels.maps,
            pairs=panels.pairs,
            name=picture.name,
            note=panels.note,
        )

    return HeldOut(
        pictures,
        lambda network, image: read(network, configuration, [image])[0],
        lambda found, annotation: (found, annotation),
        lambda found, known: evaluate_boxes(found, known, names),
        save,
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
        read: as in `held_out_boxes`.
        show: as in `held_out_boxes`.

    Returns:
        Batches and evaluation.
    """
    pictures, held_out = read_pictures(configuration)
    batches = Batches(pictures, prepare, collate, configuration)
    evaluate = held_out_boxes(held_out, configuration, read, show)
    return Data(batches, evaluate, (len(pictures), len(held_out)))
