"""Sums pooled over micro-batches: ratios by two passes, constants, and the place where averaging is undone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import headwise as hw
from headwise import losses, normalizers
from tests.criterion.samples import squared


def dice_sample(num=5):
    drawn = torch.Generator().manual_seed(0)
    maps = torch.randn(num, 3, 4, 4, generator=drawn, dtype=torch.float64, requires_grad=True)
    return maps, torch.rand(num, 3, 4, 4, generator=drawn) < 0.2


@pytest.mark.parametrize("compile", [False, True])
def test_two_passes_of_a_ratio_term_add_up_to_the_batch(compile):
    maps, label = dice_sample()
    terms: list[hw.Term | hw.RatioTerm] = [
        hw.RatioTerm("overlap", losses.dice, output="maps", target="label", weight=0.5),
        hw.Term("error", squared, output="maps", target="number"),
    ]
    targets = {"label": label, "number": torch.zeros_like(maps)}
    criterion = hw.Criterion(terms)
    whole = criterion({"maps": maps}, targets)
    (wanted,) = torch.autograd.grad(whole.total, maps)

    parts = [slice(0, 1), slice(1, 5)]
    micro = [{name: each[part] for name, each in targets.items()} for part in parts]
    leaves = [maps[part].detach().requires_grad_() for part in parts]
    outputs = (({"maps": leaf}, each) for leaf, each in zip(leaves, micro, strict=True))
    pooled: dict[str, Any] = hw.pool_denominators(criterion, micro) | hw.pool_ratios(criterion, outputs)
    assert not pooled["overlap"].numerator.requires_grad
    call = torch.compile(criterion, fullgraph=True, backend="aot_eager", dynamic=True) if compile else criterion
    found = [call({"maps": leaf}, each, pooled) for leaf, each in zip(leaves, micro, strict=True)]
    gradients = [torch.autograd.grad(each.total, leaf)[0] for leaf, each in zip(leaves, found, strict=True)]
    torch.testing.assert_close(torch.cat(gradients), wanted, rtol=1e-12, atol=1e-17)
    values = torch.stack([each["overlap"].value for each in found]).sum()
    torch.testing.assert_close(values, whole["overlap"].value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("pool", ["each", "all"])
def test_two_passes_over_levels(pool):
    maps, label = dice_sample()
    term = hw.RatioTerm(
        "overlap", losses.dice, output="maps[*]", target="label", levels=hw.Levels([1.0, 0.25, 0.5], pool=pool)
    )
    criterion = hw.Criterion([term])

    def outputs(part):
        return {"maps": [maps[part], maps[part] * 2, maps[part] - 1]}

    (wanted,) = torch.autograd.grad(criterion(outputs(slice(None)), {"label": label}).total, maps)
    parts = [slice(0, 2), slice(2, 5)]
    pooled = hw.pool_ratios(criterion, [(outputs(part), {"label": label[part]}) for part in parts])
    for part in parts:
        criterion(outputs(part), {"label": label[part]}, pooled).total.backward()
    torch.testing.assert_close(maps.grad, wanted, rtol=1e-12, atol=1e-17)


def test_a_share_of_a_pooled_ratio_by_hand():
    sums = torch.tensor([1.0, 2.0], requires_grad=True)
    n, d = sums
    share = hw.Ratio(n, d).within(hw.Ratio(torch.tensor(6.0), torch.tensor(7.0), smooth=1.0)).value
    share.backward()
    assert share.item() == pytest.approx(1 / 8)
    torch.testing.assert_close(sums.grad, torch.tensor([1 / 8, -6 / 64]))


def test_ratios_of_different_smooth_do_not_pool():
    one = torch.ones(())
    assert (hw.Ratio(one, one, 2.0) + hw.Ratio(one, one, 2.0)).value.item() == pytest.approx(2 / 4)
    with pytest.raises(ValueError, match=r"one smooth; found 0\.0 and 2\.0"):
        hw.Ratio(one, one) + hw.Ratio(one, one, 2.0)


@pytest.mark.parametrize("normalizer", [normalizers.one, 4.0])
def test_constants_are_not_totaled(normalizer):
    x = torch.arange(6.0).reshape(3, 2).requires_grad_()
    criterion = hw.Criterion([hw.Term("x", squared, normalizer, output="x", target="t")])
    (wanted,) = torch.autograd.grad(criterion({"x": x}, {"t": torch.zeros(3, 2)}).total, x)
    pooled = hw.pool_denominators(criterion, [{"t": torch.zeros(1, 2)}] * 3)
    for i in range(3):
        criterion({"x": x[i : i + 1]}, {"t": torch.zeros(1, 2)}, pooled).total.backward()
    torch.testing.assert_close(x.grad, wanted, rtol=0, atol=0)


def test_published_chunks_are_averaged():
    criterion = hw.Criterion([hw.Term("x", squared, normalizers.published_chunks, output="x", target="t")])
    assert hw.pool_denominators(criterion, [{"t": torch.zeros(1, 2)}] * 3)["x"] == 3


def test_averaging_is_undone():
    total = torch.tensor(2.0)
    assert hw.undo_averaging(total) is total
    assert hw.undo_averaging(total, ranks=3, micro_batches=4) == 24
    with pytest.raises(ValueError, match="ranks is at least 1, found 0"):
        hw.undo_averaging(total, ranks=0)


def test_pooling_nothing_is_told():
    criterion = hw.Criterion([hw.RatioTerm("x", losses.dice, output="x", target="t")])
    for pool in (hw.pool_denominators, hw.pool_ratios):
        with pytest.raises(ValueError, match="at least one micro-batch"):
            pool(criterion, [])
    # A criterion of RatioTerms alone has no denominators, and that is no error.
    assert hw.pool_denominators(criterion, [{"t": torch.zeros(1)}]) == {}


def test_a_ratio_for_a_plain_term_is_refused():
    criterion = hw.Criterion([hw.Term("x", squared, output="x", target="t")])
    one = torch.ones(())
    with pytest.raises(ValueError, match="RatioTerms alone"):
        criterion({"x": torch.ones(1, 2)}, {"t": torch.zeros(1, 2)}, {"x": hw.Ratio(one, one)})


@pytest.mark.parametrize("given", [{"t": torch.zeros(2)}, torch.zeros(2, 2)])
def test_the_targets_of_one_micro_batch_are_no_list_of_them(given):
    """A tensor was counted row by row; of a dict the error spoke of its first key."""
    criterion = hw.Criterion([hw.Term("x", hw.losses.squared_error, output="output", target="target")])
    with pytest.raises(ValueError, match=r"pool_denominators: a list with the targets of each micro-batch; found"):
        hw.pool_denominators(criterion, given)


def test_levels_of_other_keys_are_not_added():
    """Counts of `a` and `b` were added to those of `b` and `c`, one after another, in silence."""
    criterion = hw.Criterion([hw.Term("depth", losses.squared_error, output="y[*]", target="t[*]")])
    small, large = torch.zeros(5), torch.zeros(6)
    found = hw.pool_denominators(criterion, [{"t": {"a": small, "b": large}}, {"t": {"b": large, "a": small}}])
    assert found["depth"].tolist() == [10.0, 12.0]
    with pytest.raises(ValueError, match=r"'depth': its targets have 2 levels \(b, c\) in .*, 2 \(a, b\) in another"):
        hw.pool_denominators(criterion, [{"t": {"a": small, "b": large}}, {"t": {"b": large, "c": small}}])
