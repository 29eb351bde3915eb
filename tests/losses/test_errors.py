"""Inputs that do not fit are errors that say what was found and what to do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import headwise as hw
from headwise import losses
from headwise.losses.vision.published_geometry import published_direction_smooth_l1

LOGITS = torch.zeros(2, 3, 4, 4)
LABELS = torch.zeros(2, 4, 4, dtype=torch.long)
MAPS = torch.zeros(2, 4, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.cross_entropy(LOGITS, MAPS), "integer or bool, found torch.float32.*target.long"),
        (lambda: losses.cross_entropy(LOGITS, LABELS[:, None]), r"found logits \(2, 3, 4, 4\) and labels \(2, 1, 4"),
        (lambda: losses.cross_entropy(LOGITS, LABELS[:, ::2]), r"Resize the labels; .* \(Levels\(strides=\)\)"),
        (lambda: losses.cross_entropy(LOGITS, LABELS.bool()), "2 classes apart, found logits of 3 channels"),
        (lambda: losses.cross_entropy(LOGITS, LABELS, LABELS[0]), r"mask must have the labels' shape.*found \(4, 4\)"),
        (lambda: losses.cross_entropy(LOGITS.long(), LABELS), "output must be floating, found torch.int64"),
        (lambda: losses.hard_negative_cross_entropy(LOGITS, LABELS, ratio=-1), "ratio must be .* at least 0, found -1"),
        (
            lambda: losses.hard_negative_cross_entropy(LOGITS, LABELS, num_fallback=-1),
            "num_fallback is at least 0, found -1",
        ),
        (
            lambda: losses.hard_negative_cross_entropy(LOGITS, LABELS, num_fallback=2.5),  # type: ignore[arg-type]
            "num_fallback is at least 0 and a whole number, found 2.5",
        ),
        (lambda: losses.cross_entropy(LOGITS, LABELS.numpy()), "cross_entropy: .* are tensors, found a ndarray"),  # type: ignore[arg-type]
        (lambda: losses.smooth_l1((MAPS,), MAPS), "smooth_l1: .* are tensors, found a tuple"),  # type: ignore[arg-type]
        (lambda: losses.cross_entropy(LOGITS, LABELS, ignore_index=[1, 2]), r"one whole number, found \[1, 2\]"),  # type: ignore[arg-type]
        (lambda: losses.cross_entropy(LOGITS, LABELS, ignore_index=1.5), "one whole number, found 1.5"),  # type: ignore[arg-type]
        (
            lambda: losses.pull(LOGITS[:, :1], LOGITS[:, :1], LABELS[:, 0], LABELS[:, 0] + 16),
            "a map of 16 cells, found 16. Encode",
        ),
        (
            lambda: losses.multibox_cross_entropy(LOGITS[:, 0], LOGITS[:, 0, :, :3], LABELS[:, 0], LABELS[:, 0]),
            r"the same images and classes, found logits \[\(2, 4, 4\), \(2, 4, 3\)\]",
        ),
        (lambda: losses.smooth_l1(MAPS, MAPS[:1]), r"one shape, found output \(2, 4, 4\) and target \(1, 4, 4\)"),
        (lambda: losses.smooth_l1(LOGITS, LOGITS, MAPS[:, None]), r"without its channels.*found \(2, 1, 4, 4\)"),
        (lambda: losses.smooth_l1(MAPS, MAPS, beta=0), "beta must be positive and finite, found 0.*absolute_error"),
        (
            lambda: losses.relative_smooth_l1(MAPS, MAPS, beta=float("nan")),
            "beta must be positive and finite, found nan",
        ),
        (lambda: losses.squared_error(MAPS, MAPS.clone().requires_grad_()), "target.detach"),
        (lambda: losses.direction_smooth_l1(LOGITS, MAPS, component=0), "two channels"),
        (lambda: losses.direction_smooth_l1(LOGITS[:, :2], LOGITS, component=0), "needs a target of shape"),
        (lambda: losses.direction_smooth_l1(LOGITS[:, :2], MAPS, MAPS[0], component=0), "the target's shape"),
        (lambda: losses.direction_smooth_l1(LOGITS[:, :2], MAPS, component=2), "component must be 0"),
        (
            lambda: losses.direction_smooth_l1(LOGITS[:, :2], MAPS, component=0, eps=0),
            "eps must be positive and finite",
        ),
        (lambda: published_direction_smooth_l1(LOGITS, MAPS, MAPS, component=0), "two channels"),
        (lambda: losses.dice(MAPS, MAPS, smooth=-1), "smooth must be at least 0 and finite, found -1"),
    ],
)
def test_message(call, words):
    with pytest.raises(ValueError, match=words):
        call()


OUTSIDE = LABELS.clone()
OUTSIDE[0, 0, :2], OUTSIDE[1, 3, 3] = 255, -1


def two_level_mining(labels):
    return losses.multibox_cross_entropy(LOGITS.flatten(2).mT, labels.flatten(1))


@pytest.mark.parametrize(
    "call",
    [
        losses.cross_entropy,
        losses.hard_negative_cross_entropy,
        lambda output, labels: losses.weighted_cross_entropy(output, labels, MAPS + 1),
        lambda output, labels: losses.token_cross_entropy(output.flatten(2).mT, labels.flatten(1)),
        lambda output, labels: two_level_mining(labels.clamp(min=0)),
    ],
    ids=["cross_entropy", "hard_negative", "weighted", "token", "multibox"],
)
def test_a_label_that_names_no_class(call):
    with pytest.raises(
        ValueError, match=r"labels are 0\.\.2, one a channel of the logits, found 255 at 2 of 32 elements"
    ):
        call(LOGITS, OUTSIDE)


def test_a_label_that_names_no_class_and_does_not_count():
    kept = (OUTSIDE >= 0) & (OUTSIDE < 3)
    wanted = losses.cross_entropy(LOGITS, LABELS, kept)
    assert torch.equal(losses.cross_entropy(LOGITS, OUTSIDE, kept), wanted)
    assert torch.equal(losses.cross_entropy(LOGITS, OUTSIDE.clamp(min=0), OUTSIDE >= 0, ignore_index=255), wanted)


def test_a_mask_for_labels_is_told_how_it_is_read():
    mask = torch.tensor([[0, 255]], dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"found 255 at 1 of 2 .* A mask of 0 and 255 is read by mask_cross_entropy"):
        losses.cross_entropy(torch.zeros(1, 2, 2), mask)
    with pytest.raises(ValueError, match=r"term 'line': .*found 255 at 1 of 2"):
        hw.Criterion([hw.Term("line", losses.cross_entropy, output="x", target="y")])(
            {"x": torch.zeros(1, 2, 2, requires_grad=True)}, {"y": mask}
        )


@pytest.mark.parametrize("way", ["a transform", "compiled"])
def test_where_labels_cannot_be_seen_a_wrong_one_makes_its_loss_nan_and_no_other(way):
    """As on a device, which would end the process for an index out of bounds."""
    outputs = torch.randn(2, 4, 3)
    labels = torch.tensor([[0, 2, 1, 0], [0, 255, 1, 0]])
    if way == "a transform":
        found = torch.func.vmap(lambda x, y: losses.token_cross_entropy(x, y))(outputs, labels)
    else:
        compiled = torch.compile(losses.token_cross_entropy, backend="eager", fullgraph=True)
        found = torch.stack([compiled(x, y) for x, y in zip(outputs, labels, strict=True)])
    torch.testing.assert_close(found[0], F.cross_entropy(outputs[0], labels[0], reduction="sum"))
    assert found[1].isnan()


def test_two_classes_have_no_label_below_zero():
    logits, labels = torch.zeros(1, 2, 4), torch.tensor([[0, 1, -1, 0]])
    with pytest.raises(ValueError, match=r"labels are 0\.\.1, .* found -1 at 1 of 4 elements"):
        losses.hard_negative_cross_entropy(logits, labels)
    assert losses.hard_negative_cross_entropy(logits, labels, labels >= 0).isfinite()
    found = torch.func.vmap(lambda x, y: losses.hard_negative_cross_entropy(x[None], y[None]))(logits, labels)
    assert found.isnan()


BINARY: dict[str, Callable[..., Any]] = {
    "binary_cross_entropy": losses.binary_cross_entropy,
    "dice": losses.dice,
    "BCEWithLogitsLoss": losses.from_torch(torch.nn.BCEWithLogitsLoss())[0],
    "binary_cross_entropy_with_logits": losses.from_torch(F.binary_cross_entropy_with_logits)[0],
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_targets_that_are_no_probabilities(name, dtype):
    """A mask of 0 and 255 gave a negative loss, without a word."""
    output, target = torch.randn(2, 3, 4), (torch.arange(24).view(2, 3, 4) % 2 * 255).to(dtype)
    with pytest.raises(ValueError, match=r"labels 0 and 1 or probabilities, found values from 0 to 25\d.*target > 0"):
        BINARY[name](output, target)
    kept = BINARY[name](output, target, target == 0)
    wanted = BINARY[name](output, torch.zeros_like(output), target == 0)
    assert torch.equal(*(each.value if name == "dice" else each for each in (kept, wanted)))
    if not dtype.is_floating_point and name != "dice":
        slopes = torch.func.grad(BINARY[name])(output, target)
        assert torch.equal(slopes.isnan(), target == 255)


def test_targets_that_overshoot_by_a_little_are_taken():
    target = torch.tensor([[1.2, -0.1]])
    torch.testing.assert_close(
        losses.binary_cross_entropy(torch.ones(1, 2), target),
        F.binary_cross_entropy_with_logits(torch.ones(1, 2), target, reduction="sum"),
    )


INFINITE = {
    "smooth_l1": lambda inf: losses.smooth_l1(MAPS, MAPS, beta=inf),
    "dice": lambda inf: losses.dice(MAPS, MAPS, smooth=inf),
    "direction_smooth_l1": lambda inf: losses.direction_smooth_l1(LOGITS[:, :2], MAPS, component=0, eps=inf),
    "sigmoid_focal": lambda inf: losses.sigmoid_focal(LOGITS.movedim(1, -1), LABELS, gamma=inf),
    "shifted_focal, gamma": lambda inf: losses.shifted_focal(LOGITS.movedim(1, -1), LABELS, gamma=inf),
    "shifted_focal, beta": lambda inf: losses.shifted_focal(LOGITS.movedim(1, -1), LABELS, beta=inf),
    "gaussian_focal, alpha": lambda inf: losses.gaussian_focal(LOGITS, LOGITS, alpha=inf),
    "gaussian_focal, beta": lambda inf: losses.gaussian_focal(LOGITS, LOGITS, beta=inf),
}


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", INFINITE)
def test_an_option_without_a_size(name, number):
    """Most of them made the loss 0, without a word."""
    with pytest.raises(ValueError, match="finite"):
        INFINITE[name](number)
