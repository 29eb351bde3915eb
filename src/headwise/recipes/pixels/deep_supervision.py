"""A U-Net with auxiliary outputs, from pictures to a trained network."""

from __future__ import annotations

from headwise import losses
from headwise.criterion import Criterion
from headwise.criterion.schedules import StepDecay
from headwise.presets import deep_supervision as build_criterion
from headwise.recipes.own_data import with_splits
from headwise.recipes.pixels.configuration import DEEP_FULL, DEEP_TINY, DeepConfiguration
from headwise.recipes.pixels.parts import make_data, make_network
from headwise.recipes.pixels.prediction import ENDINGS, predict_instances
from headwise.recipes.run import Recipe


def make_criterion(configuration: DeepConfiguration) -> Criterion:
    """Return the preset: the weighted cross entropy on every level, the auxiliary ones by DCAN's falling weights.

    Args:
        configuration: names how many, and how their weights fall.

    Returns:
        The criterion.
    """
    falling = StepDecay(
        configuration.auxiliary_weight,
        configuration.auxiliary_factor,
        configuration.auxiliary_every,
        configuration.auxiliary_negligible,
    )
    levels = range(configuration.auxiliary + 1)
    return build_criterion(
        losses.weighted_cross_entropy,
        weights=[falling if level else 1.0 for level in levels],
        strides=[2**level for level in levels],
        target=("label", "weight_map"),
    )


deep_supervision: Recipe[DeepConfiguration] = Recipe(
    "deep_supervision",
    {"tiny": DEEP_TINY, "full": DEEP_FULL},
    make_network,
    make_criterion,
    make_data,
    predict_instances,
    ENDINGS,
    with_splits,
)
