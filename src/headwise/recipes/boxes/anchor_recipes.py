"""RetinaNet and SSD from pictures to a trained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from headwise import networks, presets
from headwise.criterion import Criterion
from headwise.recipes.boxes.anchors import (
    AnchorCollate,
    AnchorConfiguration,
    RetinaNetConfiguration,
    SSDConfiguration,
    read_anchors,
    show_anchors,
)
from headwise.recipes.boxes.configuration import with_classes
from headwise.recipes.boxes.evaluation import box_data
from headwise.recipes.boxes.prediction import box_predictor
from headwise.recipes.run import Data, Recipe
from headwise.recipes.start import PRETRAINED

FULL = RetinaNetConfiguration(
    steps=90_000,
    batch_size=16,
    optimizer="sgd",
    learning_rate=0.01,
    schedule="step",
    drop=2 / 3,
    weight_decay=1e-4,
    image_size=600,
    picture_size=600,
    checkpoint_every=5000,
    evaluate_every=30_000,
)
"""RetinaNet's training in the paper (section 5), on pictures of 600 pixels as kuangliu's."""

TINY = replace(
    FULL,
    network="tiny",
    weights=None,
    steps=2400,
    batch_size=8,
    optimizer="adamw",
    learning_rate=2e-3,
    schedule="one_cycle",
    clip_norm=5.0,
    image_size=96,
    picture_size=96,
    num_pictures=4800,
    min_side=22,
    max_side=60,
    distort=0.5,
    mirror=0.0,
    num_workers=0,
    log_every=20,
    checkpoint_every=200,
    evaluate_every=1200,
)
"""A few minutes on a CPU: narrow networks on handwritten digits."""

_OF_SSD: dict[str, Any] = {
    "background": 0.5,
    "forced": "best",
    "delta_weights": (10.0, 10.0, 5.0, 5.0),
    "activation": "softmax",
    "score_threshold": 0.01,
    "nms_threshold": 0.45,
}


def make_retinanet(configuration: AnchorConfiguration, pretrained: bool) -> nn.Module:
    """Build RetinaNet, on its backbone's pre-trained weights if wanted."""
    return networks.retinanet(configuration.num_classes, **_built(configuration, pretrained))


def make_ssd(configuration: AnchorConfiguration, pretrained: bool) -> nn.Module:
    """Build SSD, on its backbone's pre-trained weights if wanted."""
    return networks.ssd(configuration.num_classes, **_built(configuration, pretrained))


def _built(configuration: AnchorConfiguration, pretrained: bool) -> dict[str, Any]:
    weights = PRETRAINED if pretrained else None
    return {"backbone": configuration.backbone, "weights": weights, "size": configuration.network}


def _retinanet_criterion(configuration: RetinaNetConfiguration) -> Criterion:
    return presets.retinanet(focal=configuration.focal)


def _ssd_criterion(configuration: SSDConfiguration) -> Criterion:
    return presets.ssd(num_levels=configuration.num_levels)


def _data(make_network: Callable[[AnchorConfiguration, bool], Any], configuration: AnchorConfiguration) -> Data:
    from headwise.data import BoxAugmentation

    side = configuration.image_size
    anchors = make_network(configuration, False).anchors((side, side))
    prepare = BoxAugmentation(
        side,
        distort=configuration.distort,
        zoom_out=configuration.zoom_out,
        crop=configuration.crop,
        mirror=configuration.mirror,
        mean=configuration.mean,
        std=configuration.std,
    )
    return box_data(configuration, prepare, AnchorCollate(configuration, anchors), read_anchors, show_anchors)


retinanet: Recipe[RetinaNetConfiguration] = Recipe(
    "retinanet",
    {"tiny": TINY, "full": FULL},
    make_retinanet,
    _retinanet_criterion,
    partial(_data, make_retinanet),
    box_predictor(read_anchors),
    complete=with_classes,
)

SSD = replace(
    SSDConfiguration(**{**FULL.shared(AnchorConfiguration), **_OF_SSD}),
    steps=120_000,
    batch_size=32,
    learning_rate=1e-3,
    weight_decay=5e-4,
    image_size=300,
    picture_size=300,
    mean=(0.48235, 0.45882, 0.40784),
    std=(1 / 255, 1 / 255, 1 / 255),
    distort=0.5,
    zoom_out=4.0,
    crop=True,
)
"""SSD300's training in the paper (section 3.1), with torchvision's normalization for its VGG16."""

ssd: Recipe[SSDConfiguration] = Recipe(
    "ssd",
    {"tiny": SSDConfiguration(**{**TINY.shared(AnchorConfiguration), **_OF_SSD, "num_levels": 4}), "full": SSD},
    make_ssd,
    _ssd_criterion,
    partial(_data, make_ssd),
    box_predictor(read_anchors),
    complete=with_classes,
)
