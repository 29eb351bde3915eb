"""The weighted U-Net from pictures to a trained network."""

from __future__ import annotations

from headwise.criterion import Criterion
from headwise.presets import weighted_unet as build_criterion
from headwise.recipes.own_data import with_splits
from headwise.recipes.pixels.configuration import FULL, TINY, PixelConfiguration
from headwise.recipes.pixels.parts import make_data, make_network
from headwise.recipes.pixels.prediction import ENDINGS, predict_instances
from headwise.recipes.run import Recipe


def make_criterion(configuration: PixelConfiguration) -> Criterion:
    """Return the preset, which no argument changes."""
    del configuration
    return build_criterion()


weighted_unet: Recipe[PixelConfiguration] = Recipe(
    "weighted_unet",
    {"tiny": TINY, "full": FULL},
    make_network,
    make_criterion,
    make_data,
    predict_instances,
    ENDINGS,
    with_splits,
)
