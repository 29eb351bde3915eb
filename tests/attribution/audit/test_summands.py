"""What a total adds, told from its graph; also a guard of the private attributes that are read there."""

from __future__ import annotations

import pytest
import torch

from headwise.attribution.audit.summands import gradients_of, is_silenced, scalar_factors, summands


@pytest.fixture
def parts():
    leaf = torch.arange(1.0, 4.0, requires_grad=True)
    return leaf, {"a": leaf.square().sum(), "b": leaf.sum(), "c": leaf.prod()}


def test_paths_are_counted(parts):
    _, losses = parts
    a, b, c = losses.values()
    assert summands(a + 2 * b + c, losses).named == {"a": 1, "b": 1, "c": 1}
    assert summands((a + b + a) / 4, losses).named == {"a": 2, "b": 1, "c": 0}
    assert summands(torch.stack([a, b, b]).mean(), losses).named == {"a": 1, "b": 2, "c": 0}
    assert summands(sum([a, b, c, a + b + c], torch.zeros(())), losses).named == {"a": 2, "b": 2, "c": 2}
    assert summands(a, losses).named == {"a": 1, "b": 0, "c": 0}


def test_a_learnable_weight_is_a_path_to_its_loss(parts):
    _, losses = parts
    log_var = torch.zeros(2, requires_grad=True)
    total = torch.exp(-log_var[0]) * losses["a"] + log_var[0] + torch.exp(-log_var[1]) * losses["b"] + log_var[1]
    assert summands(total, losses).named == {"a": 1, "b": 1, "c": 0}


def test_what_has_no_name_is_found_with_its_gradient(parts):
    leaf, losses = parts
    extra = (3 * leaf).sum()
    found = summands(losses["a"] + extra + extra, {"a": losses["a"]}).unnamed
    assert list(found.values()) == [2]
    ((grad,),) = gradients_of(found, [leaf])
    assert grad is not None
    assert torch.equal(grad, torch.full((3,), 3.0))


def test_a_ratio_of_shared_sums_is_one_summand(parts):
    leaf, _ = parts
    both = leaf.sum()
    assert list(summands(1 - 2 * both / (both + leaf.square().sum()), {}).unnamed.values()) == [1]


def test_literal_factors(parts):
    _, losses = parts
    assert scalar_factors(0.1 * losses["a"]) == pytest.approx((0.1,))
    assert scalar_factors(losses["a"] * 0.5 * 3) == pytest.approx((3, 0.5))
    assert scalar_factors(losses["a"]) == ()


def test_a_zero_of_the_code_silences_and_a_zero_of_the_data_does_not(parts):
    _, losses = parts
    assert is_silenced(0.0 * losses["a"])
    assert is_silenced(0 * losses["a"] + 0.0 * losses["b"])
    assert not is_silenced(0.0 * losses["a"] + losses["b"])
    assert not is_silenced(torch.zeros(()) * losses["a"])
    assert not is_silenced(losses["a"])
