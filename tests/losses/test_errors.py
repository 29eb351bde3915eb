"""Inputs that do not fit are errors that say what was found and what to do."""

import pytest
import torch

from headwise import losses
from headwise.losses.published import published_direction_smooth_l1

LOGITS = torch.zeros(2, 3, 4, 4)
LABELS = torch.zeros(2, 4, 4, dtype=torch.long)
MAPS = torch.zeros(2, 4, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.cross_entropy(LOGITS, MAPS), "integer or bool, found torch.float32.*target.long"),
        (lambda: losses.cross_entropy(LOGITS, LABELS[:, None]), r"found logits \(2, 3, 4, 4\) and labels \(2, 1, 4"),
        (lambda: losses.cross_entropy(LOGITS, LABELS.bool()), "2 classes apart, found logits of 3 channels"),
        (lambda: losses.cross_entropy(LOGITS, LABELS, LABELS[0]), r"mask must have the labels' shape.*found \(4, 4\)"),
        (lambda: losses.cross_entropy(LOGITS.long(), LABELS), "output must be floating, found torch.int64"),
        (lambda: losses.hard_negative_cross_entropy(LOGITS, LABELS, ratio=-1), "at least 0, found ratio=-1"),
        (lambda: losses.hard_negative_cross_entropy(LOGITS, LABELS, num_fallback=-1), "num_fallback=-1"),
        (lambda: losses.smooth_l1(MAPS, MAPS[:1]), r"one shape, found output \(2, 4, 4\) and target \(1, 4, 4\)"),
        (lambda: losses.smooth_l1(LOGITS, LOGITS, MAPS[:, None]), r"without its channels.*found \(2, 1, 4, 4\)"),
        (lambda: losses.smooth_l1(MAPS, MAPS, beta=0), "beta must be positive, found 0.*absolute_error"),
        (lambda: losses.relative_smooth_l1(MAPS, MAPS, beta=float("nan")), "beta must be positive, found nan"),
        (lambda: losses.squared_error(MAPS, MAPS.clone().requires_grad_()), "target.detach"),
        (lambda: losses.direction_smooth_l1(LOGITS, MAPS, component=0), "two channels"),
        (lambda: losses.direction_smooth_l1(LOGITS[:, :2], LOGITS, component=0), "needs a target of shape"),
        (lambda: losses.direction_smooth_l1(LOGITS[:, :2], MAPS, MAPS[0], component=0), "the target's shape"),
        (lambda: losses.direction_smooth_l1(LOGITS[:, :2], MAPS, component=2), "component must be 0"),
        (lambda: losses.direction_smooth_l1(LOGITS[:, :2], MAPS, component=0, eps=0), "eps must be positive"),
        (lambda: published_direction_smooth_l1(LOGITS, MAPS, MAPS, component=0), "two channels"),
        (lambda: losses.dice(MAPS, MAPS, smooth=-1), "smooth must be at least 0, found -1"),
    ],
)
def test_message(call, words):
    with pytest.raises(ValueError, match=words):
        call()
