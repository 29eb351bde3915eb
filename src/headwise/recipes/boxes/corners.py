"""What the recipes of the corner detectors share: targets, boxes from pictures, and what the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headwise.evaluation.held_out import run_together
from headwise.recipes.boxes.configuration import BoxConfiguration
from headwise.recipes.boxes.evaluation import Panels
from headwise.recipes.fields import Count, Natural, NotNegative, Positive, Share
from headwise.runs.samples import PointPairs, SampleMap
from headwise.training import Batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headwise.coders.corners import Pass
    from headwise.data import BoxAnnotation, Picture

POINTS = ("top_left", "bottom_right", "center")


@dataclass(frozen=True, kw_only=True)
class CornerConfiguration(BoxConfiguration):
    """What all four corner detectors depend on, beside what every detector does.

    Args:
        network: its size, as `networks.cornernet` and the others name them.
        stride: pixels a cell of the outputs.
        num_stacks: hourglasses.
        jitter: largest relative change of a training picture's brightness, contrast and saturation.
        min_overlap: what a pair of corners off by the radius of a bump overlaps with the box.
        gaussian: bumps in the targets; without, single cells (the papers' ablation).
        pull_weight: weight of the pull, a mean over images.
        push_weight: weight of the push; 0 is the papers' ablation.
        num_peaks: corners of each kind that are joined.
        num_detections: pairs that are kept.
        embedding_threshold: largest distance of the embeddings of a pair.
    """

    network: str = "full"
    stride: Count = 4
    num_stacks: Count = 2
    jitter: Share = 0.4
    min_overlap: Share = 0.3
    gaussian: bool = True
    pull_weight: NotNegative = 0.5
    push_weight: NotNegative = 0.5
    num_peaks: Count = 100
    num_detections: Count = 1000
    embedding_threshold: NotNegative = 0.5


@dataclass(frozen=True, kw_only=True)
class WholeConfiguration(CornerConfiguration):
    """What CornerNet, CornerNet-Squeeze and CenterNet depend on beside: they read a picture as a whole.

    Args:
        coarsest: pixels a cell of the network's coarsest features; pictures are padded to its multiples, less 1.
        crop_scales: of the windows that training pictures are cut with, in sizes of the picture that is seen.
        crop_border: least distance of a window's center from the picture's edges, pixels; half, a quarter, ... of that
            where the picture is too small.
        min_kept: objects of which less than this share is left in a training picture do not count; published 0.
        scales: at which a picture is read.
        mirrored: whether it is read mirrored too.
    """

    coarsest: Count = 128
    crop_scales: tuple[Positive, ...] = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
    crop_border: Natural = 128
    min_kept: Share = 0.0
    scales: tuple[Positive, ...] = (1.0,)
    mirrored: bool = True


@dataclass(frozen=True)
class CornerCollate:
    """Samples to a batch with targets.

    Args:
        configuration: of the run.
        center: encode centers too.
    """

    configuration: CornerConfiguration
    center: bool

    def __call__(self, samples: list[tuple[Tensor, BoxAnnotation]]) -> Batch:
        """Stack pictures of one size and draw their targets."""
        images = torch.stack([image for image, _ in samples])
        return Batch(images, self.encode([annotation for _, annotation in samples], images.shape[-1]))

    def encode(self, annotations: list[BoxAnnotation], side: int) -> dict[str, Any]:
        """Return the targets of square pictures.

        Args:
            annotations: one a picture.
            side: of the pictures, pixels.

        Returns:
            See `coders.corners.encode_corners`.
        """
        from headwise.coders.corners import encode_corners

        return encode_corners(**drawn_from(self.configuration, annotations, side), center=self.center)


SLOTS = 128
"""Objects a picture for which there is room at first, as published; more make more room."""


def drawn_from(configuration: CornerConfiguration, annotations: Sequence[BoxAnnotation], side: int) -> dict[str, Any]:
    """Return what the targets of every corner detector are drawn from.

    Args:
        configuration: of the run.
        annotations: one a picture.
        side: of the pictures, pixels.

    Returns:
        Arguments of `coders.corners.encode_corners`, which `encode_saccade` has too.
    """
    cells = -(-side // configuration.stride)
    return {
        "boxes": [annotation.boxes for annotation in annotations],
        "labels": [annotation.labels for annotation in annotations],
        "ignored": [annotation.ignored for annotation in annotations],
        "image_size": (side, side),
        "grid_size": (cells, cells),
        "num_classes": configuration.num_classes,
        "num_slots": SLOTS,
        "min_overlap": configuration.min_overlap,
        "gaussian": configuration.gaussian,
    }


def as_input(image: NDArray[np.uint8], network: nn.Module) -> Tensor:
    """Return a picture as a corner detector takes it: normalized, on its device.

    Args:
        image: (H, W, 3) uint8.
        network: names the device.

    Returns:
        (3, H, W) float32.
    """
    from headwise.data import normalize
    from headwise.data.augmentation.colors import CORNER_MEAN, CORNER_STD

    return normalize(image, CORNER_MEAN, CORNER_STD).to(next(network.parameters()).device)


def read_corners(
    network: nn.Module,
    configuration: WholeConfiguration,
    images: Sequence[NDArray[np.uint8]],
    *,
    center: bool = False,
) -> list[Mapping[str, Any]]:
    """Find the boxes on pictures; those that are padded to one size are read together.

    Args:
        network: in evaluation mode.
        configuration: of the run.
        images: each (H, W, 3) uint8.
        center: let centers confirm boxes (CenterNet).

    Returns:
        For each ``boxes`` (n, 4) in pixels of the picture, ``scores``, ``labels``, on the CPU, the best first.
    """
    from headwise.coders.corners import Pass, place_picture

    passes: list[list[Pass]] = [[] for _ in images]
    pixels = [as_input(image, network) for image in images]
    for scale in configuration.scales:
        places = [
            place_picture((image.shape[0], image.shape[1]), scale=scale, multiple=configuration.coarsest)
            for image in images
        ]
        filled = [place.fill(each, mirrored=configuration.mirrored) for place, each in zip(places, pixels, strict=True)]
        for own, outputs, place in zip(passes, run_together(network, filled), places, strict=True):
            own.append(Pass(outputs, place, (False, True) if configuration.mirrored else (False,)))
    return [_merge(own, configuration, center) for own in passes]


def _merge(passes: Sequence[Pass], configuration: WholeConfiguration, center: bool) -> Mapping[str, Any]:
    from headwise.coders.corners import merge_passes
    from headwise.coders.soft_nms import Suppression

    several = len(configuration.scales) > 1
    found = merge_passes(
        passes,
        num_peaks=configuration.num_peaks,
        num_detections=configuration.num_detections,
        embedding_threshold=configuration.embedding_threshold,
        center=center,
        rule=Suppression(weight_exponent=10.0) if several else None,
        max_detections=configuration.max_detections,
    )
    return {name: found[name].cpu() for name in ("boxes", "scores", "labels")}


def show_corners(
    network: nn.Module,
    configuration: CornerConfiguration,
    picture: Picture[BoxAnnotation],
    *,
    points: tuple[str, ...] = POINTS[:2],
) -> Panels:
    """Return the heat maps of the last stack, and the embeddings at the annotated corners.

    Args:
        network: in evaluation mode.
        configuration: of the run.
        picture: with its boxes.
        points: which heat maps there are.

    Returns:
        Maps over all classes, with their targets; pairs of embeddings.
    """
    side = configuration.image_size
    image, annotation = shrink_picture(picture, side)
    stack = network(as_input(image, network)[None])["stacks"][-1]
    targets = CornerCollate(configuration, "center" in points).encode([annotation], side)
    maps = [
        SampleMap(
            TITLES[point],
            stack[f"{point}_heatmap"][0].sigmoid().amax(0).cpu(),
            targets[f"{point}_heatmap"][0].amax(0),
            (0.0, 1.0),
        )
        for point in points
    ]
    return Panels(maps, [_embeddings(stack, targets, configuration)], NOTE)


def shrink_picture(picture: Picture[BoxAnnotation], side: int) -> tuple[NDArray[np.uint8], BoxAnnotation]:
    """Stretch a picture to a square, as in training, so that one grid lies over all of it.

    Args:
        picture: with its boxes.
        side: of the square, pixels.

    Returns:
        The square and its boxes.
    """
    import cv2
    import numpy as np

    height, width = picture.image.shape[:2]
    known = picture.annotation
    boxes = known.boxes * np.array([side / width, side / height] * 2, np.float32)
    image = np.asarray(cv2.resize(picture.image, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return image, replace(known, boxes=boxes)


TITLES = {"top_left": "top-left corners", "bottom_right": "bottom-right corners", "center": "centers"}
NOTE = (
    "Probabilities of the last stack, the largest over all classes, over their targets. On the line, the two corners "
    "of one object should lie on each other (pull), those of different objects at least 1 apart (push)."
)


def _embeddings(stack: dict[str, Tensor], targets: dict[str, Tensor], configuration: CornerConfiguration) -> PointPairs:
    """The embeddings of the annotated corners, object by object."""
    there = targets["objects"][0]
    first, second = (
        stack[f"{point}_embedding"][0].flatten().cpu()[targets[f"{point}_index"][0][there]] for point in POINTS[:2]
    )
    index = targets["top_left_index"][0][there]
    labels = targets["top_left_heatmap"][0].flatten(1)[:, index].argmax(0).tolist()
    names = [configuration.class_names[label] for label in labels]
    return PointPairs("embeddings of each object's corners", first, second, names)
