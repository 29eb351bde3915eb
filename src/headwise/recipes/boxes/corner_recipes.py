"""CornerNet, CornerNet-Squeeze, CornerNet-Saccade and CenterNet from pictures to a trained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from headwise import networks, presets
from headwise.criterion import Criterion
from headwise.recipes.boxes.configuration import with_classes
from headwise.recipes.boxes.corners import POINTS, CornerCollate, CornerConfiguration, read_corners, show_corners
from headwise.recipes.boxes.evaluation import Reader, Show, box_data
from headwise.recipes.boxes.prediction import box_predictor
from headwise.recipes.boxes.saccade import (
    SaccadeConfiguration,
    collate_saccade,
    read_saccade,
    saccade_augmentation,
    show_saccade,
)
from headwise.recipes.run import Data, Recipe

if TYPE_CHECKING:
    from headwise.data import CornerAugmentation

FULL = CornerConfiguration(
    steps=500_000,
    batch_size=49,
    learning_rate=2.5e-4,
    schedule="step",
    drop=0.9,
    checkpoint_every=5000,
    evaluate_every=50_000,
)
"""The authors' training of CornerNet on COCO; their batch lay on ten GPUs."""

TINY = replace(
    FULL,
    network="tiny",
    coarsest=16,
    steps=2400,
    batch_size=8,
    learning_rate=2e-3,
    schedule="one_cycle",
    weight_decay=1e-4,
    clip_norm=5.0,
    image_size=95,
    picture_size=95,
    num_pictures=4800,
    min_side=22,
    max_side=60,
    crop_scales=(1.0,),
    crop_border=47,
    jitter=0.2,
    mirror=0.0,
    min_kept=0.4,
    mirrored=False,
    num_peaks=40,
    num_detections=200,
    num_workers=0,
    log_every=20,
    checkpoint_every=200,
    evaluate_every=800,
)
"""A few minutes on a CPU: narrow networks on handwritten digits."""


def _network(build: Callable[..., nn.Module], configuration: CornerConfiguration, pretrained: bool) -> nn.Module:
    """Build a network; there are no pre-trained weights."""
    del pretrained
    size = int(configuration.network) if configuration.network.isdigit() else configuration.network
    return build(configuration.num_classes, size=size, num_stacks=configuration.num_stacks)


def _criterion(build: Callable[..., Criterion], configuration: CornerConfiguration) -> Criterion:
    return build(configuration.num_stacks, pull_weight=configuration.pull_weight, push_weight=configuration.push_weight)


def _saccade_criterion(configuration: SaccadeConfiguration) -> Criterion:
    return _criterion(
        partial(presets.cornernet_saccade, attention_weight=configuration.attention_weight), configuration
    )


def _augmentation(configuration: CornerConfiguration) -> CornerAugmentation:
    from headwise.data import CornerAugmentation

    return CornerAugmentation(configuration.image_size, mirror=configuration.mirror, min_kept=configuration.min_kept)


def _data(read: Reader[Any], show: Show[Any], center: bool, configuration: CornerConfiguration) -> Data:
    return box_data(configuration, _augmentation(configuration), CornerCollate(configuration, center), read, show)


def _saccade_data(configuration: SaccadeConfiguration) -> Data:
    collate = partial(collate_saccade, configuration)
    return box_data(configuration, saccade_augmentation(configuration), collate, read_saccade, show_saccade)


cornernet: Recipe[CornerConfiguration] = Recipe(
    "cornernet",
    {"tiny": TINY, "full": FULL},
    partial(_network, networks.cornernet),
    partial(_criterion, presets.cornernet),
    partial(_data, read_corners, show_corners, False),
    box_predictor(read_corners),
    complete=with_classes,
)

SQUEEZE = replace(
    FULL,
    batch_size=55,
    stride=8,
    pull_weight=1.4,
    push_weight=1.4,
    num_peaks=20,
    num_detections=100,
    mirrored=False,
)

# A stride of 8 wants larger pictures; its steps are cheaper.
TINY_SQUEEZE = replace(
    TINY, steps=2000, stride=8, coarsest=32, image_size=127, picture_size=127, crop_border=63, min_side=26, max_side=76
)

cornernet_squeeze: Recipe[CornerConfiguration] = Recipe(
    "cornernet_squeeze",
    {"tiny": TINY_SQUEEZE, "full": SQUEEZE},
    partial(_network, networks.cornernet_squeeze),
    partial(_criterion, presets.cornernet_squeeze),
    partial(_data, read_corners, show_corners, False),
    box_predictor(read_corners),
    complete=with_classes,
)

CENTERNET = replace(
    FULL,
    network="104",
    steps=480_000,
    batch_size=48,
    drop=450 / 480,
    min_overlap=0.7,
    pull_weight=0.6,
    push_weight=0.6,
    num_peaks=70,
)

_read_centers = partial(read_corners, center=True)

centernet: Recipe[CornerConfiguration] = Recipe(
    "centernet",
    {"tiny": replace(TINY, steps=1600), "full": CENTERNET},
    partial(_network, networks.centernet),
    partial(_criterion, presets.centernet),
    partial(_data, _read_centers, partial(show_corners, points=POINTS), True),
    box_predictor(_read_centers),
    complete=with_classes,
)

cornernet_saccade: Recipe[SaccadeConfiguration] = Recipe(
    "cornernet_saccade",
    {"tiny": SaccadeConfiguration.tiny(TINY), "full": SaccadeConfiguration.full(FULL)},
    partial(_network, networks.cornernet_saccade),
    _saccade_criterion,
    _saccade_data,
    box_predictor(read_saccade),
    complete=with_classes,
)
