"""The weighted U-Net and deep supervision against recorded numbers, and what their cards promise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import headwise as hw
from headwise import losses, normalizers
from headwise.criterion.schedules import StepDecay
from headwise.criterion.terms.levels import shrink
from tests.presets.detectors.test_anchor_family import EXTRA, assert_equal, tensor


@pytest.mark.parametrize(("ours", "theirs"), [("mean", "mean"), ("weight_sum", "weighted_mean"), ("sum", "sum")])
def test_weighted_unet(ours, theirs):
    logits = tensor(EXTRA, "nll_pixels/in/logits", torch.float64).requires_grad_()
    label, weight = tensor(EXTRA, "nll_pixels/tgt/target"), tensor(EXTRA, "nll_pixels/tgt/weight", torch.float64)
    criterion = hw.presets.weighted_unet(normalizer=ours)
    breakdown = criterion({"logits": logits}, {"label": label, "weight_map": weight})
    assert_equal(breakdown["segmentation"].value, EXTRA[f"nll_pixels/out/{theirs}"], 1e-9)
    breakdown.total.backward()
    of_mean = EXTRA["nll_pixels/grad/logits"]
    assert_equal(logits.grad, of_mean * EXTRA[f"nll_pixels/out/{theirs}"] / EXTRA["nll_pixels/out/mean"], 1e-9)


def test_weighted_unet_of_elements_and_as_published():
    logits = tensor(EXTRA, "nll_basic/in/logits", torch.float64).requires_grad_()
    label, weight = tensor(EXTRA, "nll_basic/tgt/target"), tensor(EXTRA, "nll_basic/tgt/weight", torch.float64)
    for columns in (False, True):
        targets = {"label": label[:, None], "weight_map": weight[:, None]} if columns else {}
        targets = targets or {"label": label, "weight_map": weight}
        breakdown = hw.presets.weighted_unet()({"logits": logits}, targets)
        assert_equal(breakdown.total, EXTRA["nll_basic/out/loss"], 1e-9)
        (gradient,) = torch.autograd.grad(breakdown.total, logits)
        assert_equal(gradient, EXTRA["nll_basic/grad/logits"], 1e-9)
        published = hw.presets.weighted_unet(as_published=True)({"logits": logits}, targets)
        assert_equal(published.total, EXTRA["nll_basic/out/loss"] * len(label), 1e-9)


def test_weighted_unet_ignores_a_label_in_sum_and_count():
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    targets = {"label": label, "weight_map": torch.ones(2, 4, 4)}
    for normalizer in ("mean", "weight_sum"):
        found = hw.presets.weighted_unet(normalizer=normalizer, ignore_index=2)({"logits": logits}, targets).total
        torch.testing.assert_close(found, F.cross_entropy(logits, label, ignore_index=2))


def test_parallel_criterion_is_one_term_a_head():
    """ParallelCriterion with a shared target, and MultiCriterion: plain terms with weights."""
    case = "parallel_seed002"
    heads = {f"head_{i}": tensor(EXTRA, f"{case}/in/head_{i}", torch.float64).requires_grad_() for i in range(3)}
    target, weights = tensor(EXTRA, f"{case}/tgt/target"), EXTRA[f"{case}/tgt/weights"]
    terms = [
        hw.Term(f"term_{i}", losses.cross_entropy, output=f"head_{i}", target="target", weight=float(weights[i]))
        for i in range(3)
    ]
    breakdown = hw.Criterion(terms)(heads, {"target": target})
    for name in ("term_0", "term_1", "term_2"):
        assert_equal(breakdown[name].value, EXTRA[f"{case}/out/{name}"], 1e-9)
    assert_equal(breakdown.total, EXTRA[f"{case}/out/total"], 1e-9)
    breakdown.total.backward()
    for name, head in heads.items():
        assert_equal(head.grad, EXTRA[f"{case}/grad/{name}"], 1e-9)
    supervised = hw.presets.deep_supervision(weights=[float(weight) for weight in weights])
    total = supervised({"levels": [*heads.values()]}, {"label": target}).total
    assert_equal(total, EXTRA[f"{case}/out/total"], 1e-9)


def levels(sizes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, *size, generator=generator, dtype=dtype).requires_grad_() for size in sizes]


def test_deep_supervision_resizes_labels_and_halves_weights():
    outputs = levels([(9, 12), (5, 6), (3, 3)])
    label = torch.randint(0, 3, (2, 9, 12), generator=torch.Generator().manual_seed(1))
    criterion = hw.presets.deep_supervision(weights=[1.0, 0.5, 0.25], strides=[1, 2, 4], normalize=True)
    breakdown = criterion({"levels": outputs}, {"label": label})
    each = [F.cross_entropy(o, shrink(label, stride)) for o, stride in zip(outputs, (1, 2, 4), strict=True)]
    torch.testing.assert_close(breakdown.total, (each[0] + each[1] / 2 + each[2] / 4) / 1.75, rtol=1e-12, atol=0)
    assert breakdown["levels"].levels.shape == (3,)


def test_auxiliary_weights_fall_until_negligible_and_keep_a_zero_gradient():
    outputs = levels([(4, 4)] * 2)
    decay = StepDecay(1.0, 0.1, every=10, negligible=1e-2)
    criterion = hw.presets.deep_supervision(weights=[1.0, decay])
    label = torch.zeros(2, 4, 4, dtype=torch.long)
    main, auxiliary = (F.cross_entropy(each, label) for each in outputs)
    for weight in (1.0, 0.1, 0.01, 0.0):
        total = criterion({"levels": outputs}, {"label": label}).total
        torch.testing.assert_close(total, main + weight * auxiliary, rtol=1e-12, atol=0)
        gradient = torch.autograd.grad(total, outputs)[1]
        assert gradient.any() == (weight > 0)
        criterion.advance(10)


def test_hourglasses_regress_one_map_on_every_stack():
    outputs = levels([(4, 4)] * 3)
    heatmap = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    criterion = hw.presets.deep_supervision(losses.squared_error, normalizers.elements, target="heatmap")
    total = criterion({"levels": outputs}, {"heatmap": heatmap}).total
    torch.testing.assert_close(total, sum(F.mse_loss(each, heatmap) for each in outputs), rtol=1e-12, atol=0)


def test_weight_maps_under_deep_supervision():
    outputs = levels([(6, 6), (3, 3)])
    label, weight = torch.randint(0, 3, (2, 6, 6)), torch.rand(2, 6, 6, dtype=torch.float64)
    criterion = hw.presets.deep_supervision(
        losses.weighted_cross_entropy, normalizers.weight_sum, strides=[1, 2], target=("label", "weight_map")
    )
    found = criterion({"levels": outputs}, {"label": label, "weight_map": weight}).total
    wanted = torch.zeros(())
    for output, stride in zip(outputs, (1, 2), strict=True):
        of_level = shrink(weight, stride)
        wanted = (
            wanted
            + (F.cross_entropy(output, shrink(label, stride), reduction="none") * of_level).sum() / of_level.sum()
        )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
