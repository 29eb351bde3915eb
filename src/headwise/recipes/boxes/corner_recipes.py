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
from headwise.recipes.boxes.corners import (
    POINTS,
    CornerCollate,
    CornerConfiguration,
    WholeConfiguration,
    read_corners,
    show_corners,
)
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

FULL = WholeConfiguration(
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
    crop_border=32,
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


def _augmentation(configuration: WholeConfiguration) -> CornerAugmentation:
    from headwise.data import CornerAugmentation

    return CornerAugmentation(
        configuration.image_size,
        scales=configuration.crop_scales,
        border=configuration.crop_border,
        mirror=configuration.mirror,
        jitter=configuration.jitter,
        min_kept=configuration.min_kept,
    )


def _data(read: Reader[Any], show: Show[Any], center: bool, configuration: WholeConfiguration) -> Data:
    return box_data(configuration, _augmentation(configuration), CornerCollate(configuration, center), read, show)


def _saccade_data(configuration: SaccadeConfiguration) -> Data:
    collate = partial(collate_saccade, configuration)
    return box_data(configuration, saccade_augmentation(configuration), collate, read_saccade, show_saccade)


def _on_whole_pictures(
    name: str, tiny: WholeConfiguration, full: WholeConfiguration, *, center: bool = False
) -> Recipe[WholeConfiguration]:
    """Recipe of the network and preset of that name, which read corners, and centers, from whole pictures."""
    read = partial(read_corners, center=center)
    return Recipe(
        name,
        {"tiny": tiny, "full": full},
        partial(_network, getattr(networks, name)),
        partial(_criterion, getattr(presets, name)),
        partial(_data, read, partial(show_corners, points=POINTS if center else POINTS[:2]), center),
        box_predictor(read),
        complete=with_classes,
    )


cornernet = _on_whole_pictures("cornernet", TINY, FULL)

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
    TINY, steps=2000, stride=8, coarsest=32, image_size=127, picture_size=127, min_side=26, max_side=76
)

cornernet_squeeze = _on_whole_pictures("cornernet_squeeze", TINY_SQUEEZE, SQUEEZE)

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

centernet = _on_whole_pictures("centernet", replace(TINY, steps=1600), CENTERNET, center=True)

_SACCADE = {
    "num_stacks": 3,
    "min_overlap": 0.5,
    "pull_weight": 1.2,
    "push_weight": 1.2,
    "num_peaks": 12,
    "num_detections": 12,
    "embedding_threshold": 0.3,
}

SACCADE = SaccadeConfiguration(**{**FULL.shared(CornerConfiguration), **_SACCADE, "batch_size": 48, "image_size": 255})
"""The authors' training, on crops of 255 pixels."""

TINY_SACCADE = replace(
    SaccadeConfiguration(**{**TINY.shared(CornerConfiguration), **_SACCADE}),
    num_stacks=2,
    jitter=0.2,
    attention_weight=0.1,
    steps=3000,
    picture_size=143,
    min_side=28,
    max_side=72,
    max_crops=12,
    first_sizes=(95,),
    attention_sides=(24.0, 36.0),
    zooms=(1.25, 1.5, 2.0),
    reference_sides=((48.0, 56.0), (-1.0, 48.0)),
    crop_ranges=((18.0, 56.0), (30.0, 64.0)),
)
"""A training of minutes, on pictures that are larger than a crop."""

cornernet_saccade: Recipe[SaccadeConfiguration] = Recipe(
    "cornernet_saccade",
    {"tiny": TINY_SACCADE, "full": SACCADE},
    partial(_network, networks.cornernet_saccade),
    _saccade_criterion,
    _saccade_data,
    box_predictor(read_saccade),
    complete=with_classes,
)
