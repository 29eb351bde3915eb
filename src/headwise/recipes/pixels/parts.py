"""What the weighted U-Net and its deeply supervised sister share: data, coding and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headwise.evaluation.instance_reading import held_out_instances
from headwise.networks import unet
from headwise.networks.unet import UNet
from headwise.recipes.batches import Batches
from headwise.recipes.own_data import open_splits
from headwise.recipes.pixels.configuration import DeepConfiguration, PixelConfiguration
from headwise.recipes.run import Data
from headwise.training import Batch

if TYPE_CHECKING:
    from headwise.data import InstanceAnnotation, PictureDataset


def make_network(configuration: PixelConfiguration, pretrained: bool) -> UNet:
    """Build the U-Net.

    Args:
        configuration: names its size, and its auxiliary outputs if it is deeply supervised.
        pretrained: changes nothing: there are no such weights.

    Returns:
        The network.
    """
    del pretrained
    return unet(
        width=configuration.width,
        depth=configuration.depth,
        padding=configuration.padding,
        batch_norm=configuration.batch_norm,
        auxiliary=configuration.auxiliary if isinstance(configuration, DeepConfiguration) else 0,
    )


def make_data(configuration: PixelConfiguration) -> Data:
    """Return batches of augmented crops, and the scores on held-out pictures."""
    from headwise.data import InstanceAugmentation

    pictures, held_out = _pictures(configuration)
    with torch.device("meta"):
        network = make_network(configuration, False)
    prepare = InstanceAugmentation(
        network.fitting(configuration.crop_size),
        degrees=configuration.degrees,
        elastic=configuration.elastic,
        brightness=configuration.brightness,
    )
    collating = partial(collate, margin=network.margin, encode=configuration.encode)
    batches = Batches(pictures, prepare, collating, configuration)
    evaluate = held_out_instances(held_out, encode=configuration.encode, decode=configuration.decode)
    return Data(batches, evaluate, (len(pictures), len(held_out)))


def _pictures(
    configuration: PixelConfiguration,
) -> tuple[PictureDataset[InstanceAnnotation], PictureDataset[InstanceAnnotation]]:
    """Return the training and the held-out pictures."""
    from headwise.data import embedded_instances

    if configuration.has_own_data:
        return open_splits(configuration)
    size = configuration.picture_size
    return (
        embedded_instances("train", num_pictures=configuration.num_pictures, size=size),
        embedded_instances("held_out", num_pictures=configuration.num_held_out, size=size),
    )


def collate(samples: list[tuple[Tensor, Tensor]], *, margin: int, encode: Mapping[str, Any]) -> Batch:
    """Stack augmented pictures and encode their instance maps.

    Args:
        samples: pictures (3, H, W), all of one size, with their instance maps (H, W).
        margin: pixels that the network's output lacks on each side.
        encode: options of `encode_instances`.

    Returns:
        The batch. Weights know the objects in the margin too.
    """
    from headwise.coders.instances import encode_instances

    images = torch.stack([image for image, _ in samples])
    targets = encode_instances(torch.stack([label for _, label in samples]), **encode)
    inner = slice(margin, images.shape[-1] - margin)
    return Batch(images, {name: target[:, inner, inner] for name, target in targets.items()})
