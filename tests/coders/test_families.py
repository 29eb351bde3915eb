"""What one coder of a family refuses, all of them refuse: numbers that are none, labels beyond the classes, flags that
are numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from headwise.coders import anchors, corners, instances, snakes
from headwise.coders.borders import encode_border_weights

SIDE, CELLS, CLASSES = 32, 8, 3
ANCHORS = anchors.centered_anchors((SIDE, SIDE), strides=(16,), sides=(16,), ratios=(1.0,), scales=(1.0,))
GRID: dict[str, Any] = {"image_size": (SIDE, SIDE), "grid_size": (CELLS, CELLS), "num_classes": CLASSES}
BOX = torch.tensor([[1.0, 1.0, 20.0, 20.0]])
ONE, NO = torch.tensor([0]), torch.tensor([False])


def box_targets(boxes: Any = BOX, labels: Any = ONE, ignored: Any = NO) -> dict[str, Any]:
    return anchors.encode_boxes([boxes], [labels], ANCHORS, ignored=[ignored], num_classes=CLASSES)


def corner_targets(boxes: Any = BOX, labels: Any = ONE, ignored: Any = NO) -> dict[str, Any]:
    return corners.encode_corners([boxes], [labels], ignored=[ignored], center=True, **GRID)


def saccade_targets(boxes: Any = BOX, labels: Any = ONE, ignored: Any = NO) -> dict[str, Any]:
    return corners.encode_saccade([boxes], [labels], ignored=[ignored], **GRID)


def snake_targets(ignored: Any = False, corner: float = 20.0) -> dict[str, Any]:
    return snakes.encode_snakes([[np.array([[2, 10], [28, 10], [28, 20], [2, corner]])]], [[ignored]], size=SIDE)


ENCODERS: dict[str, Callable[..., Any]] = {
    "boxes": box_targets,
    "corners": corner_targets,
    "saccade": saccade_targets,
}


def stacks() -> dict[str, torch.Tensor]:
    """Maps with one pair of corners, and its center, that every decoder finds."""
    maps = {}
    for kind, cell in (("top_left", 1), ("bottom_right", 5), ("center", 3)):
        maps[f"{kind}_heatmap"] = torch.full((1, CLASSES, CELLS, CELLS), -9.0)
        maps[f"{kind}_heatmap"][0, 0, cell, cell] = 9.0
        maps[f"{kind}_embedding"] = torch.zeros(1, 1, CELLS, CELLS)
        maps[f"{kind}_offset"] = torch.zeros(1, 2, CELLS, CELLS)
    return maps


def decode_corners(name: str, value: float) -> Any:
    maps = stacks()
    maps[name][0, 0, 1:6, 1:6] = value
    return corners.decode_corners({"stacks": [maps]}, center=True, num_peaks=4)


def merge_passes(name: str, value: float) -> Any:
    maps = stacks()
    maps[name][0, 0, 1:6, 1:6] = value
    return corners.merge_passes([corners.Pass({"stacks": [maps]}, corners.place_picture((31, 31), multiple=32))])


def decode_boxes(name: str, value: float) -> Any:
    level = {"logits": torch.full((1, len(ANCHORS[0]), CLASSES), 3.0), "deltas": torch.zeros(1, len(ANCHORS[0]), 4)}
    level[name][0, 1, 1] = value
    return anchors.decode_boxes({"levels": [level]}, ANCHORS)


def suppress_boxes(name: str, value: float) -> Any:
    found = {"boxes": BOX.clone(), "scores": torch.tensor([0.9]), "labels": ONE}
    found[name].view(-1)[-1] = value
    return corners.suppress_boxes(found, (SIDE, SIDE))


def decode_maps(name: str, value: float) -> Any:
    outputs = {"logits": torch.zeros(1, 2, 8, 8), "maps": torch.zeros(1, 7, 8, 8)}
    outputs[name][0, 1, 2, 3] = value
    return (instances.decode_instances if name == "logits" else snakes.decode_snakes)(outputs)


READ = [
    *((decode_corners, f"{kind}_{part}") for kind in ("top_left", "bottom_right") for part in ("embedding", "offset")),
    *((decode_corners, f"{kind}_heatmap") for kind in ("top_left", "bottom_right", "center")),
    (merge_passes, "top_left_heatmap"),
    (decode_boxes, "logits"),
    (decode_boxes, "deltas"),
    (suppress_boxes, "boxes"),
    (suppress_boxes, "scores"),
    (decode_maps, "logits"),
    (decode_maps, "maps"),
]


@pytest.mark.parametrize(("decode", "name"), READ, ids=lambda each: getattr(each, "__name__", each))
def test_no_decoder_reads_what_is_no_number(decode, name):
    decode(name, 0.25)
    with pytest.raises(ValueError, match=r"not a number|not finite"):
        decode(name, math.nan)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ENCODERS)
def test_no_encoder_takes_a_coordinate_that_is_no_number(name, value):
    boxes = BOX.clone()
    boxes[0, 2 if value > 0 else 0] = value
    with pytest.raises(ValueError, match="finite"):
        ENCODERS[name](boxes=boxes)
    with pytest.raises(ValueError, match="finite"):
        snake_targets(corner=value)


@pytest.mark.parametrize("label", [-1, CLASSES, 255])
@pytest.mark.parametrize("name", ENCODERS)
def test_no_encoder_takes_a_label_beyond_the_classes(name, label):
    ENCODERS[name](labels=torch.tensor([CLASSES - 1]))
    with pytest.raises(ValueError, match="labels"):
        ENCODERS[name](labels=torch.tensor([label]))


@pytest.mark.parametrize("flag", [torch.tensor([1]), torch.tensor([0.5]), torch.tensor([255], dtype=torch.uint8)])
@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_left_out_is_true_or_false(name, flag):
    """Masks of 0 and 255 are true where they are 255, but -1, 0.5 and "no" would be true as well."""
    ENCODERS[name](ignored=flag > 0)
    with pytest.raises(ValueError, match="ignored"):
        ENCODERS[name](ignored=flag)


@pytest.mark.parametrize("flag", [0, 255, 0.5, "no", None, np.uint8(255)])
def test_words_are_left_out_by_true_or_false(flag):
    for good in (np.bool_(True), torch.tensor(True), True):
        assert not snake_targets(ignored=good)["center_line"].any()
    with pytest.raises(ValueError, match="ignored holds one bool"):
        snake_targets(ignored=flag)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_object_outside_trains_nothing(name):
    """A box that meets no anchor takes none, and one beside the picture draws no corner."""
    targets = ENCODERS[name](boxes=BOX + 1000)
    drawn = targets["levels"][0]["label"] if "levels" in targets else targets["top_left_heatmap"]
    assert float(drawn.abs().sum()) == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_a_mask_of_255_is_one_object_with_two_classes(dtype):
    mask = torch.zeros(8, 8, dtype=dtype)
    mask[2:5, 2:5] = torch.tensor(255).to(dtype)
    numbered = (mask != 0).long()
    targets, expected = instances.encode_instances(mask), instances.encode_instances(numbered)
    assert torch.equal(targets["label"], expected["label"])
    assert torch.equal(targets["weight_map"], expected["weight_map"])
    assert torch.equal(encode_border_weights(mask), encode_border_weights(numbered))


@pytest.mark.parametrize("kind", [np.asarray, torch.Tensor.tolist], ids=["arrays", "lists"])
@pytest.mark.parametrize("name", ENCODERS)
def test_boxes_may_be_arrays_and_lists(name, kind):
    found = ENCODERS[name](boxes=kind(BOX), labels=kind(ONE), ignored=kind(NO))
    for each, wanted in zip(tree_leaves(found), tree_leaves(ENCODERS[name]()), strict=True):
        assert torch.equal(each, wanted)
    nothing = ENCODERS[name](boxes=kind(BOX[:0]), labels=kind(ONE[:0]), ignored=kind(NO[:0]))
    assert not any(bool(each.any()) for each in tree_leaves(nothing) if each.dtype != torch.bool)


def test_instance_maps_may_be_arrays():
    label = torch.eye(6).long()
    assert torch.equal(encode_border_weights(label.numpy()), encode_border_weights(label))
    assert torch.equal(instances.open_gaps(label.numpy()), instances.open_gaps(label))
    assert torch.equal(instances.encode_instances(label.numpy())["label"], instances.encode_instances(label)["label"])
    assert encode_border_weights(label[:0]).shape == (0, 6)


@pytest.mark.parametrize("decode", [corners.decode_corners, snakes.decode_snakes, instances.decode_instances])
@pytest.mark.parametrize("outputs", [[], torch.zeros(1, 7, 8, 8)], ids=["list", "tensor"])
def test_what_holds_no_named_outputs_is_told(decode, outputs):
    with pytest.raises(ValueError, match=rf"found (a )?{type(outputs).__name__}"):
        decode(outputs)
    with pytest.raises(ValueError, match="found no stack"):
        corners.decode_corners({"stacks": []})


@pytest.mark.parametrize("size", [(0, SIDE), (SIDE, -1), (SIDE, math.nan), (math.inf, SIDE)])
def test_no_encoder_takes_a_picture_without_pixels(size):
    for encode in (corners.encode_corners, corners.encode_saccade):
        with pytest.raises(ValueError, match=r"image_size is .height, width., both at least 1.*, found"):
            encode([BOX], [ONE], **GRID | {"image_size": size})
        with pytest.raises(
            ValueError, match=r"grid_size is .height, width., both at least 1 and whole numbers, found .8, 7.5."
        ):
            encode([BOX], [ONE], **GRID | {"grid_size": (8, 7.5)})


@pytest.mark.parametrize("size", [(0, SIDE), (SIDE, -1), (SIDE, math.nan), (math.nan, SIDE)])
def test_no_decoder_takes_a_picture_without_pixels(size):
    level = {"logits": torch.zeros(1, len(ANCHORS[0]), CLASSES), "deltas": torch.zeros(1, len(ANCHORS[0]), 4)}
    for decode in (
        lambda: corners.decode_corners({"stacks": [stacks()]}, image_size=size),
        lambda: anchors.decode_boxes({"levels": [level]}, ANCHORS, image_size=size),
    ):
        with pytest.raises(ValueError, match=r"both at least 1.*, found"):
            decode()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": (0, 1, 1, 1)}, "four positive numbers"),
        ({"weights": (1, 1, 1)}, "four positive numbers"),
        ({"score_threshold": 2}, "in .0, 1., found 2 and 0.5"),
        ({"nms_threshold": math.nan}, "in .0, 1., found 0.05 and nan"),
    ],
)
def test_no_box_decoder_takes_an_option_out_of_its_range(options, words):
    level = {"logits": torch.zeros(1, len(ANCHORS[0]), CLASSES), "deltas": torch.zeros(1, len(ANCHORS[0]), 4)}
    with pytest.raises(ValueError, match=words):
        anchors.decode_boxes({"levels": [level]}, ANCHORS, **options)
    if "weights" in options:
        with pytest.raises(ValueError, match=words):
            anchors.encode_boxes([BOX], [ONE], ANCHORS, **options)


def test_what_a_level_lacks_is_named():
    with pytest.raises(ValueError, match="level 0 lacks logits; found deltas"):
        anchors.decode_boxes({"levels": [{"deltas": torch.zeros(1, len(ANCHORS[0]), 4)}]}, ANCHORS)


def test_labels_of_a_narrow_dtype_may_have_more_classes_than_it_holds():
    found = anchors.encode_boxes([BOX], [ONE.to(torch.uint8)], ANCHORS, num_classes=256)
    assert found["levels"][0]["label"].amax() == 1


def test_a_mask_is_no_map_of_numbers_for_any_coder_of_instances():
    """Two objects that touch would be one, without a word."""
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    for encode in (encode_border_weights, instances.encode_instances, instances.open_gaps):
        with pytest.raises(ValueError, match="integer map of object numbers"):
            encode(mask)


MAPS = stacks()
LEVEL = {"logits": torch.full((1, len(ANCHORS[0]), CLASSES), 3.0), "deltas": torch.full((1, len(ANCHORS[0]), 4), 0.1)}
FOUND = {"boxes": BOX.repeat(2, 1), "scores": torch.tensor([0.9, 0.8]), "labels": ONE.repeat(2)}
CODERS: dict[str, Callable[[], Any]] = {
    **ENCODERS,
    "corners of lists": lambda: corner_targets(boxes=[[1.3, 2.7, 20.1, 20.9]], labels=[0]),
    "snakes": snake_targets,
    "instances": lambda: instances.encode_instances(torch.eye(6).long()),
    "decode_corners": lambda: corners.decode_corners({"stacks": [MAPS]}, center=True, num_peaks=4),
    "decode_boxes": lambda: anchors.decode_boxes({"levels": [LEVEL]}, ANCHORS),
    "suppress_boxes": lambda: corners.suppress_boxes(FOUND, (SIDE, SIDE)),
    "initial_locations": lambda: corners.initial_locations((100, 70)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CODERS)
def test_the_default_dtype_of_torch_changes_nothing(name, dtype):
    """Corners were not encoded under another, and coordinates in lists were rounded to it."""
    wanted = tree_leaves(CODERS[name]())
    torch.set_default_dtype(dtype)
    try:
        found = tree_leaves(CODERS[name]())
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(found) == len(wanted)
    assert all(torch.equal(torch.as_tensor(one), torch.as_tensor(two)) for one, two in zip(found, wanted, strict=True))
