"""Whole numbers and sizes that are given as something else: one line that names the option, whoever takes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import headwise as hw
from headwise import coders, losses, networks, normalizers, presets
from headwise.coders.corners import crops, locations, peaks, placement
from headwise.data import embedded_digits, embedded_instances, embedded_text
from headwise.data.augmentation.boxes import CornerAugmentation
from headwise.data.augmentation.instances import InstanceAugmentation

BOXES = [torch.tensor([[2.0, 2.0, 20.0, 30.0]])]
LABELS = [torch.tensor([1])]
GRID: dict[str, Any] = {"image_size": (64, 64), "grid_size": (16, 16), "num_classes": 2}
AT = torch.tensor([[8.0, 8.0, 1.0, 1.0]])
STACK = {
    **{f"{kind}_heatmap": torch.zeros(1, 2, 4, 4) for kind in ("top_left", "bottom_right")},
    **{f"{kind}_offset": torch.zeros(1, 2, 4, 4) for kind in ("top_left", "bottom_right")},
    **{f"{kind}_embedding": torch.zeros(1, 1, 4, 4) for kind in ("top_left", "bottom_right")},
}
LEVEL = {"levels": [{"logits": torch.zeros(1, 2, 3), "deltas": torch.zeros(1, 2, 4)}]}
ANCHORS = [torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 8.0, 20.0, 20.0]])]
WORD = [[torch.tensor([[2.0, 2.0], [28.0, 2.0], [28.0, 10.0], [2.0, 10.0]])]]
TERM = hw.Term("alpha", losses.squared_error, output="x", target="y")

TAKERS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "decode_corners": (
        lambda **given: coders.corners.decode_corners(STACK, **given),
        ("num_peaks", "num_detections", "kernel_size"),
    ),
    "encode_corners": (
        lambda **given: coders.corners.encode_corners(BOXES, LABELS, **GRID | given),
        ("num_classes", "num_slots"),
    ),
    "encode_saccade": (
        lambda **given: coders.corners.encode_saccade(BOXES, LABELS, **GRID | given),
        ("num_classes", "num_slots", "min_side"),
    ),
    "suppress_boxes": (
        lambda **given: coders.corners.suppress_boxes(
            {"boxes": BOXES[0], "scores": torch.ones(1), "labels": LABELS[0]}, None, **given
        ),
        ("max_detections",),
    ),
    "find_peaks": (lambda **given: peaks.find_peaks(torch.zeros(1, 2, 4, 4), **given), ("num_peaks",)),
    "local_maxima": (lambda **given: peaks.local_maxima(torch.zeros(4, 4), **given), ("kernel_size",)),
    "place_picture": (lambda **given: placement.place_picture((8, 8), **given), ("multiple",)),
    "crops_around": (lambda **given: crops.crops_around(AT, **given), ("window",)),
    "decode_boxes": (
        lambda **given: coders.anchors.decode_boxes(LEVEL, ANCHORS, **given),
        ("num_candidates", "num_detections"),
    ),
    "encode_snakes": (
        lambda **given: coders.snakes.encode_snakes(WORD, [[False]], size=given.pop("size", 32), **given),
        ("size", "num_disks", "shrink"),
    ),
    "decode_snakes": (
        lambda **given: coders.snakes.decode_snakes({"maps": torch.zeros(1, 7, 8, 8)}, **given),
        ("max_steps",),
    ),
    "open_gaps": (lambda **given: coders.instances.open_gaps(torch.eye(4).long(), **given), ("gap",)),
    "decode_instances": (
        lambda **given: coders.instances.decode_instances({"logits": torch.zeros(1, 2, 8, 8)}, **given),
        ("min_area", "close"),
    ),
    "Levels": (lambda **given: hw.Levels(**given), ("num_spatial",)),
    "hard_negative_cross_entropy": (
        lambda **given: losses.hard_negative_cross_entropy(
            torch.zeros(1, 2, 4), torch.ones(1, 4, dtype=torch.long), **given
        ),
        ("num_fallback",),
    ),
    "mined": (lambda **given: normalizers.mined(torch.ones(1, 4), **given), ("num_fallback",)),
    "load_balance": (lambda **given: losses.load_balance(torch.zeros(1, 4, 3), torch.ones(1, 4), **given), ("top_k",)),
    "direction_smooth_l1": (
        lambda **given: losses.direction_smooth_l1(torch.zeros(1, 2, 4), torch.zeros(1, 4), **given),
        ("component",),
    ),
    "cross_entropy": (
        lambda **given: losses.cross_entropy(torch.zeros(1, 2, 4), torch.ones(1, 4, dtype=torch.long), **given),
        ("ignore_index",),
    ),
    "Ledger": (
        lambda **given: hw.Ledger(hw.Criterion([TERM]), **given).close(),
        ("capacity", "micro_batches", "samples"),
    ),
    "cornernet": (presets.cornernet, ("num_stacks",)),
    "ssd": (presets.ssd, ("num_levels",)),
    "unet": (networks.unet, ("num_classes", "in_channels", "width", "depth", "auxiliary")),
    "cornernet_squeeze": (networks.cornernet_squeeze, ("num_classes", "num_stacks")),
    "undo_averaging": (
        lambda **given: hw.undo_averaging(torch.ones(()), **{"ranks": 1} | given),
        ("ranks", "micro_batches"),
    ),
    "CornerAugmentation": (lambda **given: CornerAugmentation(**{"size": 32} | given), ("size", "view")),
    "InstanceAugmentation": (lambda **given: InstanceAugmentation(**{"size": 32} | given), ("size", "knots")),
    "embedded_digits": (embedded_digits, ("num_pictures", "size", "seed", "min_side", "max_side")),
    "embedded_instances": (embedded_instances, ("num_pictures", "size", "seed")),
    "embedded_text": (embedded_text, ("num_pictures", "size", "seed")),
}
OTHERS: dict[str, Any] = {
    "a half": 2.5, "a float": 64.0, "true": True, "text": "64", "a list": [64], "not a number": math.nan,
    "infinite": math.inf, "complex": 64j, "below": -3,
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize(
    ("taker", "option"), [(name, option) for name, (_, names) in TAKERS.items() for option in names]
)
def test_what_is_no_whole_number_is_refused(taker: str, option: str, what: str) -> None:
    if option == "ignore_index" and what == "below":
        return  # any label may be left out
    with pytest.raises((ValueError, TypeError), match=option) as found:
        TAKERS[taker][0](**{option: OTHERS[what]})
    assert "\n" not in str(found.value)


SIZES: dict[str, Callable[[Any], Any]] = {
    "decode_corners": lambda size: coders.corners.decode_corners(STACK, image_size=size),
    "decode_boxes": lambda size: coders.anchors.decode_boxes(LEVEL, ANCHORS, image_size=size),
    "encode_corners": lambda size: coders.corners.encode_corners(BOXES, LABELS, **GRID | {"image_size": size}),
    "encode_saccade": lambda size: coders.corners.encode_saccade(BOXES, LABELS, **GRID | {"image_size": size}),
    "the grid": lambda size: coders.corners.encode_corners(BOXES, LABELS, **GRID | {"grid_size": size}),
    "place_picture": placement.place_picture,
    "initial_locations": crops.initial_locations,
    "attention_locations": lambda size: locations.attention_locations([], crops.crops_around(AT), size, zooms=()),
    "centered_anchors": coders.anchors.centered_anchors,
}
NO_SIZES: dict[str, Any] = {
    "one number": 64, "three numbers": (3, 64, 64), "text": "64", "texts": ("64", "64"), "floats": (64.0, 64.0),
    "truths": (True, True), "none": (None, None), "nothing": (), "zero": (0, 64), "no numbers": (math.nan, 64),
}  # fmt: skip


@pytest.mark.parametrize("size", NO_SIZES.values(), ids=list(NO_SIZES))
@pytest.mark.parametrize("taker", SIZES)
def test_what_is_no_size_is_refused(taker: str, size: Any) -> None:
    with pytest.raises(ValueError, match=r"_size is \(height, width\), both at least 1.*, found"):
        SIZES[taker](size)


def test_numpy_s_whole_numbers_serve() -> None:
    found = coders.corners.decode_corners(STACK, image_size=(np.int64(8), np.int32(8)), num_peaks=np.int64(3))  # type: ignore[arg-type]
    assert len(found[0]["boxes"]) <= 9
    assert coders.snakes.encode_snakes(WORD, [[False]], size=np.int64(32))  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [losses.pull, losses.push, losses.published_pull, losses.published_push])
def test_embeddings_of_two_sizes_are_refused(loss: Callable[..., torch.Tensor]) -> None:
    index = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"maps of one size, found \(1, 1, 4, 4\) and \(1, 1, 8, 8\)"):
        loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 8, 8), index, index)
