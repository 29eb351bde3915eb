"""What is CornerNet-Saccade's own: crops with attention, and reading a picture by looking twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headwise.recipes.boxes.corners import CornerConfiguration, as_input, drawn_from, show_corners, shrink_picture
from headwise.recipes.boxes.evaluation import Panels
from headwise.recipes.fields import Count, Natural, NotNegative, Positive, Share
from headwise.runs.samples import SampleMap
from headwise.training import Batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headwise.data import BoxAnnotation, Picture, SaccadeAugmentation

Ranges = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class SaccadeConfiguration(CornerConfiguration):
    """What CornerNet-Saccade depends on, beside what every corner detector does; the defaults are the authors'.

    Args:
        first_sizes: long sides of the picture in the first look, pixels.
        max_crops: most crops of the second look.
        attention_weight: weight of attention, of the mean over stacks; theirs divide it by the stacks twice.
        attention_threshold: probability that a peak of attention must exceed.
        attention_sides: longer sides that part small from medium and medium from large objects, pixels of a crop; each
            kind has an attention map.
        zooms: of the second look against the first, where attention is for large, medium and small objects.
        reference_sides: the longer side over which a found box is looked at again, and with what longer side.
        crop_ranges: longer sides that the reference object of a training crop may have, small, medium, large.
        least_side: longer side from which an object is found itself; smaller ones draw attention alone.
    """

    first_sizes: tuple[Count, ...] = (192, 255)
    max_crops: Count = 30
    attention_weight: NotNegative = 1 / 3
    attention_threshold: Share = 0.3
    attention_sides: tuple[Positive, Positive] = (32.0, 96.0)
    zooms: tuple[Positive, Positive, Positive] = (1.0, 2.0, 4.0)
    reference_sides: Ranges = ((96.0, 192.0), (32.0, 64.0), (-1.0, 24.0))
    crop_ranges: Ranges = ((16.0, 32.0), (32.0, 96.0), (96.0, 255.0))
    least_side: Natural = 16

    @property
    def attention_ranges(self) -> Ranges:
        """The longer sides that each attention map is for: large, medium, small."""
        small, large = self.attention_sides
        return (large, inf), (small, large), (0.0, small)


def saccade_augmentation(configuration: SaccadeConfiguration) -> SaccadeAugmentation:
    """Return the crops of a training run: (picture, seed) -> crop, boxes and the share of each that is inside."""
    from headwise.data import SaccadeAugmentation

    return SaccadeAugmentation(
        configuration.image_size,
        ranges=configuration.crop_ranges,
        mirror=configuration.mirror,
        jitter=configuration.jitter,
    )


def collate_saccade(
    configuration: SaccadeConfiguration, samples: list[tuple[Tensor, BoxAnnotation, NDArray[np.float32]]]
) -> Batch:
    """Stack crops and draw their targets.

    Args:
        configuration: of the run.
        samples: crops of one size, their boxes, and the share of each box that is inside.

    Returns:
        The batch.
    """
    images = torch.stack([image for image, _, _ in samples])
    return Batch(images, _encode(configuration, [boxes for _, boxes, _ in samples], [kept for _, _, kept in samples]))


def _encode(configuration: SaccadeConfiguration, annotations: list[BoxAnnotation], kept: Any) -> dict[str, Any]:
    from headwise.coders.corners import encode_saccade

    return encode_saccade(
        **drawn_from(configuration, annotations, configuration.image_size),
        kept=kept,
        min_side=configuration.least_side,
        attention_ranges=configuration.attention_ranges,
    )


def read_saccade(
    network: nn.Module, configuration: SaccadeConfiguration, images: Sequence[NDArray[np.uint8]]
) -> list[Mapping[str, Any]]:
    """Find the boxes on pictures, one after the other.

    Args:
        network: in evaluation mode.
        configuration: of the run.
        images: each (H, W, 3) uint8.

    Returns:
        For each ``boxes`` (n, 4) in pixels of the picture, ``scores``, ``labels``, on the CPU, the best first.
    """
    return [_read_one(network, configuration, image) for image in images]


def _read_one(network: nn.Module, configuration: SaccadeConfiguration, image: NDArray[np.uint8]) -> Mapping[str, Any]:
    from headwise.coders.corners import saccade_inference

    found = saccade_inference(
        lambda crops: network(crops.contiguous(memory_format=torch.channels_last)),
        as_input(image, network),
        window=configuration.image_size,
        sizes=configuration.first_sizes,
        zooms=configuration.zooms,
        attention_threshold=configuration.attention_threshold,
        reference_sides=configuration.reference_sides,
        max_crops=configuration.max_crops,
        num_peaks=configuration.num_peaks,
        num_detections=configuration.num_detections,
        embedding_threshold=configuration.embedding_threshold,
        max_detections=configuration.max_detections,
    )
    return {name: found[name].cpu() for name in ("boxes", "scores", "labels")}


def show_saccade(network: nn.Module, configuration: SaccadeConfiguration, picture: Picture[BoxAnnotation]) -> Panels:
    """Return what CornerNet's report shows of the first look, and its three maps of attention.

    Args:
        network: in evaluation mode.
        configuration: of the run.
        picture: with its boxes.

    Returns:
        Maps with their targets, and pairs of embeddings.
    """
    panels = show_corners(network, configuration, picture)
    image, annotation = shrink_picture(picture, configuration.image_size)
    attention = network(as_input(image, network)[None])["stacks"][-1]["attention"]
    targets = _encode(configuration, [annotation], None)["attention"]
    maps = [
        SampleMap(f"attention, {size} objects", logits[0, 0].sigmoid().cpu(), target[0, 0], (0.0, 1.0))
        for size, logits, target in zip(("large", "medium", "small"), attention, targets, strict=True)
    ]
    return Panels([*panels.maps, *maps], panels.pairs, panels.note)
