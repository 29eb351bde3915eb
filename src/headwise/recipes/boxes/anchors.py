"""What the recipes of RetinaNet and SSD share: targets, boxes from pictures, and what the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor, nn

from headwise.recipes.boxes.configuration import BoxConfiguration
from headwise.recipes.boxes.evaluation import Panels
from headwise.recipes.fields import Count, Positive, Range, Share
from headwise.runs.samples import SampleMap
from headwise.training import Batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headwise.data import BoxAnnotation, Picture

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class AnchorConfiguration(BoxConfiguration):
    """What a detector with anchors depends on, beside what every detector does.

    Args:
        network: its size, "full" or "tiny".
        backbone: of the full size; None for the network's own.
        mean: of red, green and blue, which pictures are normalized by.
        std: of red, green and blue.
        distort: how often each kind of color change is made.
        zoom_out: largest canvas that a training picture is put on, in its own size.
        crop: whether training pictures are cropped around objects.
        foreground: overlap from which an anchor belongs to a box.
        background: overlap below which it is background.
        forced: what boxes without an anchor get, as in `coders.anchors.encode_boxes`.
        delta_weights: of the deltas.
        activation: of the logits.
        score_threshold: least score of a box.
        num_candidates: boxes a level that are kept before suppression.
        nms_threshold: overlap from which the worse of two boxes of a class is suppressed.
    """

    network: Literal["full", "tiny"] = "full"
    backbone: str | None = None
    weights: str | None = "DEFAULT"
    mean: Triple = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    distort: Share = 0.0
    zoom_out: Annotated[float, Range(1)] = 1.0
    crop: bool = False
    foreground: Share = 0.5
    background: Share = 0.4
    forced: Literal["none", "ties", "best"] = "ties"
    delta_weights: tuple[Positive, Positive, Positive, Positive] = (1.0, 1.0, 1.0, 1.0)
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    score_threshold: Share = 0.05
    num_candidates: Count = 1000
    nms_threshold: Share = 0.5


@dataclass(frozen=True, kw_only=True)
class RetinaNetConfiguration(AnchorConfiguration):
    """What RetinaNet depends on beside.

    Args:
        focal: "sigmoid" (the paper's) or "shifted".
    """

    focal: Literal["sigmoid", "shifted"] = "sigmoid"


@dataclass(frozen=True, kw_only=True)
class SSDConfiguration(AnchorConfiguration):
    """What SSD depends on beside.

    Args:
        num_levels: of the outputs, over which the hardest negatives are chosen.
    """

    num_levels: Count = 6


@dataclass(frozen=True)
class AnchorCollate:
    """Samples to a batch with targets.

    Args:
        configuration: of the run.
        anchors: per level (A_l, 4), of its training pictures.
    """

    configuration: AnchorConfiguration
    anchors: list[Tensor]

    def __call__(self, samples: list[tuple[Tensor, BoxAnnotation]]) -> Batch:
        """Stack pictures of one size and match their boxes with the anchors."""
        return Batch(
            torch.stack([image for image, _ in samples]), self.encode([annotation for _, annotation in samples])
        )

    def encode(self, annotations: list[BoxAnnotation]) -> dict[str, Any]:
        """Return the targets of pictures.

        Args:
            annotations: one a picture.

        Returns:
            See `coders.anchors.encode_boxes`.
        """
        from headwise.coders.anchors import encode_boxes

        return encode_boxes(
            [torch.from_numpy(annotation.boxes) for annotation in annotations],
            [torch.from_numpy(annotation.labels) for annotation in annotations],
            self.anchors,
            ignored=[torch.from_numpy(annotation.ignored) for annotation in annotations],
            foreground=self.configuration.foreground,
            background=self.configuration.background,
            forced=self.configuration.forced,
            weights=self.configuration.delta_weights,
            num_classes=self.configuration.num_classes,
        )


def read_anchors(
    network: nn.Module, configuration: AnchorConfiguration, images: Sequence[NDArray[np.uint8]]
) -> list[Mapping[str, Any]]:
    """Find the boxes on pictures, each stretched to the size of the training pictures.

    Args:
        network: in evaluation mode, with ``anchors(image_size)``.
        configuration: of the run.
        images: each (H, W, 3) uint8.

    Returns:
        For each ``boxes`` (n, 4) in pixels of the picture, ``scores``, ``labels``, on the CPU, the best first.
    """
    from headwise.coders.anchors import decode_boxes

    side = configuration.image_size
    found = decode_boxes(
        network(_as_input(images, configuration, network)),
        _anchors(network, side),
        activation=configuration.activation,
        weights=configuration.delta_weights,
        image_size=(side, side),
        score_threshold=configuration.score_threshold,
        num_candidates=configuration.num_candidates,
        nms_threshold=configuration.nms_threshold,
        num_detections=configuration.max_detections,
    )
    backs = [torch.tensor([image.shape[1] / side, image.shape[0] / side] * 2) for image in images]
    return [
        {**{name: part.cpu() for name, part in each.items()}, "boxes": each["boxes"].cpu() * back}
        for each, back in zip(found, backs, strict=True)
    ]


def _as_input(images: Sequence[NDArray[np.uint8]], configuration: AnchorConfiguration, network: nn.Module) -> Tensor:
    """The pictures (N, 3, side, side), stretched, normalized, on the network's device."""
    from torchvision.transforms.v2 import functional

    from headwise.data import normalize

    side = [configuration.image_size] * 2
    pixels = [functional.resize(torch.from_numpy(image).permute(2, 0, 1), side, antialias=True) for image in images]
    normal = torch.stack([normalize(each, configuration.mean, configuration.std) for each in pixels])
    return normal.to(next(network.parameters()).device, memory_format=torch.channels_last)


@lru_cache(maxsize=2)
def _anchors(network: Any, side: int) -> list[Tensor]:
    """The anchors of square pictures; making them takes a run of the trunk."""
    anchors: list[Tensor] = network.anchors((side, side))
    return anchors


def show_anchors(network: nn.Module, configuration: AnchorConfiguration, picture: Picture[BoxAnnotation]) -> Panels:
    """Return the highest probability of any class in every cell of every level.

    Args:
        network: in evaluation mode.
        configuration: of the run.
        picture: with its boxes.

    Returns:
        A map a level, with its target: 1 where an anchor belongs to a box.
    """
    import numpy as np

    side = configuration.image_size
    height, width = picture.image.shape[:2]
    known = picture.annotation
    stretched = replace(known, boxes=known.boxes * np.array([side / width, side / height] * 2, np.float32))
    outputs = network(_as_input([picture.image], configuration, network))["levels"]
    anchors = [level.cpu() for level in _anchors(network, side)]
    targets = AnchorCollate(configuration, anchors).encode([stretched])
    maps = []
    for number, (level, target, boxes) in enumerate(zip(outputs, targets["levels"], anchors, strict=True)):
        cells = _cells_of(boxes)
        likely = _probability(level["logits"][0].cpu(), configuration).reshape(cells, cells, -1).amax(-1)
        labels = target["label"][0].reshape(cells, cells, -1)
        title = f"level {number}, {cells} x {cells} cells (probability)"
        maps.append(SampleMap(title, likely, (labels > 0).any(-1).float(), (0.0, 1.0)))
    return Panels(maps, [], "The likeliest class of any anchor in each cell; beside it, the cells whose anchors train.")


def _probability(logits: Tensor, configuration: AnchorConfiguration) -> Tensor:
    likely = logits.sigmoid() if configuration.activation == "sigmoid" else logits.softmax(-1)[:, 1:]
    return likely.amax(-1)


def _cells_of(anchors: Tensor) -> int:
    """Cells along a side of a square level: how many centers its anchors have in a row, but for their rounding."""
    centers = ((anchors[:, 0] + anchors[:, 2]) / 2).sort().values
    return 1 + int((centers.diff() > _ROUNDING * centers[-1]).sum())


_ROUNDING = 1e-4
"""Of a center, which boxes of several shapes give by their corners, in parts of the picture's side."""
