"""Weights that are expressions of parameters: found wherever the function has them from."""

from __future__ import annotations

import torch
from torch import nn

import headwise as hw
from headwise.losses import squared_error

HELD = nn.Parameter(torch.tensor(0.5))


def of_a_global():
    return torch.exp(-HELD)


def criterion(weight):
    return hw.Criterion([hw.Term("depth", squared_error, output="y", target="t", weight=weight)])


def test_a_parameter_of_the_module_is_found():
    assert [id(each) for each in criterion(of_a_global).parameters()] == [id(HELD)]


def test_a_parameter_that_is_closed_over_is_found():
    held = nn.Parameter(torch.tensor(0.5))
    assert [id(each) for each in criterion(lambda: held * 2).parameters()] == [id(held)]


def test_a_parameter_as_default_is_found():
    held = nn.Parameter(torch.tensor(0.5))
    assert [id(each) for each in criterion(lambda s=held: s * 2).parameters()] == [id(held)]
