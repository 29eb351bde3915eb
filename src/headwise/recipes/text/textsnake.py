"""TextSnake from pictures to a trained network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from headwise.criterion import Criterion
from headwise.evaluation.text_reading import held_out_text
from headwise.networks import textsnake as build_network
from headwise.presets import textsnake as build_criterion
from headwise.recipes.batches import Batches
from headwise.recipes.own_data import open_splits, with_splits
from headwise.recipes.run import Data, Recipe
from headwise.recipes.start import PRETRAINED
from headwise.recipes.text.configuration import FULL, TINY, TextConfiguration
from headwise.recipes.text.prediction import predict_words
from headwise.training import Batch

if TYPE_CHECKING:
    from headwise.data import PictureDataset, TextAnnotation


def make_network(configuration: TextConfiguration, pretrained: bool) -> nn.Module:
    """Build the network.

    Args:
        configuration: names backbone and width.
        pretrained: start from ImageNet's weights, not from random ones.

    Returns:
        The network.
    """
    return build_network(configuration.backbone, PRETRAINED if pretrained else None, width=configuration.width)


def make_criterion(configuration: TextConfiguration) -> Criterion:
    """Return the preset, which no argument changes."""
    del configuration
    return build_criterion()


def make_data(configuration: TextConfiguration) -> Data:
    """Return batches of augmented crops, and the scores on held-out pictures."""
    from headwise.data import TextAugmentation

    pictures, held_out = _pictures(configuration)
    prepare = TextAugmentation(configuration.crop_size, scale=(configuration.scale, 1.0), degrees=configuration.degrees)
    batches = Batches(pictures, prepare, collate, configuration)
    evaluate = held_out_text(held_out, size=configuration.inference_size, decode=configuration.decode)
    return Data(batches, evaluate, (len(pictures), len(held_out)))


def _pictures(configuration: TextConfiguration) -> tuple[PictureDataset, PictureDataset]:
    """Return the training and the held-out pictures."""
    from headwise.data import embedded_text

    if configuration.has_own_data:
        return open_splits(configuration)
    size = configuration.picture_size
    return (
        embedded_text("train", num_pictures=configuration.num_pictures, size=size),
        embedded_text("held_out", num_pictures=configuration.num_held_out, size=size),
    )


def collate(samples: list[tuple[Tensor, TextAnnotation]]) -> Batch:
    """Stack augmented pictures and draw their targets.

    Args:
        samples: pictures (3, H, W), all of one size, with their annotations.

    Returns:
        The batch.
    """
    from headwise.coders.snakes import encode_snakes

    images = torch.stack([image for image, _ in samples])
    annotations = [annotation for _, annotation in samples]
    targets = encode_snakes(
        [annotation.polygons for annotation in annotations],
        [annotation.ignored for annotation in annotations],
        size=(images.shape[-2], images.shape[-1]),
    )
    return Batch(images, targets)


textsnake: Recipe[TextConfiguration] = Recipe(
    "textsnake",
    {"tiny": TINY, "full": FULL},
    make_network,
    make_criterion,
    make_data,
    predict_words,
    complete=with_splits,
)
