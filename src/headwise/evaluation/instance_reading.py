"""Finding objects on pictures with a U-Net, and scoring that on annotated pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headwise.evaluation.held_out import HeldOut, run_together
from headwise.evaluation.instances import evaluate_instances
from headwise.runs.samples import Instances, SampleMap, save_sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headwise.data import InstanceAnnotation, Picture, PictureDataset
    from headwise.networks.unet import UNet


@dataclass(frozen=True)
class FoundInstances:
    """What a network found on a picture.

    Args:
        label: (H, W) int64, the number of the object at each pixel of the picture, 0 for the background.
        scores: (n,) in [0, 1], of the objects 1 to n.
        probability: (H, W) float32, of not being background.
        levels: the same of the auxiliary outputs, (h, w), if there are any.
    """

    label: Tensor
    scores: Tensor
    probability: Tensor
    levels: tuple[Tensor, ...] = ()


def find_instances(
    network: UNet, images: Sequence[NDArray[np.uint8]], decode: Mapping[str, Any] | None = None
) -> list[FoundInstances]:
    """Find the objects on pictures; those of one size are read together.

    A network without padding sees the picture mirrored at its border, so that it says something of every pixel. It is
    left in the mode, training or evaluation, in which it was.

    Args:
        network: as `networks.unet` builds it.
        images: each (H, W, 3) uint8 RGB.
        decode: options of `coders.instances.decode_instances`.

    Returns:
        For each its objects, on its own pixels.
    """
    from headwise.data import normalize

    outputs = run_together(network, [normalize(_mirror(image, network))[None] for image in images])
    return [_found(each, image.shape[:2], decode) for each, image in zip(outputs, images, strict=True)]


def _found(outputs: Mapping[str, Any], size: tuple[int, ...], decode: Mapping[str, Any] | None) -> FoundInstances:
    from headwise.coders.instances import decode_instances, object_probability

    height, width = size
    finest, *coarser = outputs["levels"] if "levels" in outputs else [outputs["logits"]]
    outputs = {"logits": finest[..., :height, :width].float()}
    found = decode_instances(outputs, **(decode or {}))[0]
    levels = tuple(object_probability({"logits": level})[0] for level in coarser)
    return FoundInstances(found["label"], found["scores"], object_probability(outputs)[0], levels)


def _mirror(image: NDArray[np.uint8], network: UNet) -> NDArray[np.uint8]:
    import numpy as np

    margin = network.margin
    around = [(margin, network.fitting(length) - length - margin) for length in image.shape[:2]]
    return np.pad(image, [*around, (0, 0)], mode="symmetric")


def held_out_instances(
    pictures: PictureDataset[InstanceAnnotation],
    *,
    encode: Mapping[str, Any] | None = None,
    decode: Mapping[str, Any] | None = None,
    num_samples: int = 6,
) -> HeldOut[FoundInstances]:
    """Return the evaluation of objects on annotated pictures.

    Args:
        pictures: held out.
        encode: options of `coders.instances.encode_instances`, for the targets that samples show.
        decode: as in `find_instances`.
        num_samples: how many pictures are saved for the page.

    Returns:
        Called, it gives the scores of `evaluate_instances`, and ``num_images``.
    """
    return HeldOut(
        pictures,
        lambda network, image: find_instances(network, [image], decode)[0],
        lambda found, annotation: (found.label.numpy(), annotation.label),
        evaluate_instances,
        lambda folder, index, network, picture, found: _save(folder, index, picture, found, encode or {}),
        num_samples,
    )


def _save(
    folder: Path, index: int, picture: Picture[InstanceAnnotation], found: FoundInstances, encode: Mapping[str, Any]
) -> None:
    """Save a picture for the report."""
    from headwise.coders.instances import encode_instances

    label = torch.from_numpy(picture.annotation.label)
    targets = encode_instances(label, **encode)
    levels = [
        SampleMap(f"object (probability), level {number}", level.half(), None, (0, 1))
        for number, level in enumerate(found.levels, start=1)
    ]
    save_sample(
        folder,
        index,
        picture.image,
        maps=[
            SampleMap("object (probability)", found.probability.half(), targets["label"], (0, 1)),
            *levels,
            SampleMap("weight of each pixel in training", targets["weight_map"], None, None, "viridis"),
        ],
        instances=Instances(label, found.label),
        name=picture.name,
        note="Between objects that touch, the target has a line of background, which weighs most.",
    )
