"""Several criteria on several outputs: Torch7's two containers, DCAN, nnU-Net and stacked hourglasses, by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import headwise as hw
from headwise import losses, normalizers
from headwise.criterion import Levels
from headwise.criterion.schedules import StepDecay

LABEL = torch.randint(0, 2, (2, 8, 8), generator=torch.Generator().manual_seed(3))


def drawn(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]


def assert_sum(breakdown, leaves, wanted):
    """Total and gradients are those of a plain sum."""
    torch.testing.assert_close(breakdown.total, wanted, rtol=1e-12, atol=0)
    found = torch.autograd.grad(breakdown.total, leaves, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, leaves, retain_graph=True), rtol=1e-10, atol=1e-15)


def test_parallel_criterion_with_a_target_each():
    """``ParallelCriterion():add(ClassNLL, 0.5):add(MSE)`` on {logits, depth}: number i on pair i."""
    logits, depth = drawn((2, 3, 4, 4), (2, 1, 4, 4))
    label = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    measured = torch.rand(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    criterion = hw.Criterion(
        [
            hw.Term("class", losses.cross_entropy, output="logits", target="label", weight=0.5),
            hw.Term("depth", losses.squared_error, normalizers.elements, output="depth", target="depth"),
        ]
    )
    breakdown = criterion({"logits": logits, "depth": depth}, {"label": label, "depth": measured})
    assert_sum(breakdown, [logits, depth], 0.5 * F.cross_entropy(logits, label) + F.mse_loss(depth, measured))


def test_multi_criterion_reads_one_pair_several_times():
    """``MultiCriterion():add(MSE, 0.5):add(Abs, 2)`` on the same input and target."""
    (output,) = drawn((2, 5))
    target = torch.rand(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    terms = [("squared", losses.squared_error, 0.5), ("absolute", losses.absolute_error, 2.0)]
    criterion = hw.Criterion(
        [
            hw.Term(name, loss, normalizers.elements, output="y", target="y", weight=weight)
            for name, loss, weight in terms
        ]
    )
    breakdown = criterion({"y": output}, {"y": target})
    assert_sum(breakdown, [output], 0.5 * F.mse_loss(output, target) + 2 * F.l1_loss(output, target))


def dcan():
    """Objects and contours, each with three auxiliary classifiers, whose weights fall to 0."""
    falling = StepDecay(1.0, 0.1, every=10, negligible=1e-3)
    levels = Levels([1.0, falling, falling, falling])
    return hw.Criterion(
        [
            hw.Term(name, losses.cross_entropy, output=f"{name}[*]", target=name, levels=levels)
            for name in ("object", "contour")
        ]
    )


@pytest.mark.parametrize(("step", "weight"), [(0, 1.0), (9, 1.0), (10, 0.1), (25, 0.01), (30, 1e-3), (40, 0.0)])
def test_dcan_object_contour_and_auxiliary_classifiers(step, weight):
    outputs = {name: drawn(*[(2, 2, 8, 8)] * 4) for name in ("object", "contour")}
    contour = LABEL.roll(1, -1) != LABEL
    criterion = dcan()
    criterion.advance(step)
    breakdown = criterion(outputs, {"object": LABEL, "contour": contour})
    wanted = torch.zeros((), dtype=torch.float64)
    for name, target in (("object", LABEL), ("contour", contour.long())):
        main, *auxiliary = (F.cross_entropy(each, target) for each in outputs[name])
        wanted = wanted + main + weight * sum(auxiliary)
    leaves = [*outputs["object"], *outputs["contour"]]
    assert_sum(breakdown, leaves, wanted)
    with hw.Ledger(criterion) as ledger:
        criterion(outputs, {"object": LABEL, "contour": contour}).total.backward()
        shares = ledger.read()["contour"].levels
    assert (shares["contour[2]"].share > 0) == (weight > 0)
    for output in outputs["contour"][1:]:
        assert output.grad is not None, "a zero gradient, not a missing one"
        assert output.grad.any() == (weight > 0)


def test_nnunet_halves_weights_and_leaves_the_coarsest_out():
    """Weights 1, 1/2, 1/4, 0 over their sum, on labels picked at strides 1, 2, 4, 8."""
    outputs = drawn((2, 2, 8, 8), (2, 2, 4, 4), (2, 2, 2, 2), (2, 2, 1, 1))
    criterion = hw.presets.deep_supervision(weights=[1, 0.5, 0.25, 0], strides=[1, 2, 4, 8], normalize=True)
    picked = [LABEL, LABEL[:, 1::2, 1::2], LABEL[:, 2::4, 2::4]]
    each = [F.cross_entropy(output, label) for output, label in zip(outputs, picked, strict=False)]
    wanted = (each[0] + each[1] / 2 + each[2] / 4) / 1.75 + 0 * outputs[3].sum()
    assert_sum(criterion({"levels": outputs}, {"label": LABEL}), outputs, wanted)
    assert Levels.halving(4).at(4, 0) == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15])


def test_stacked_hourglasses_regress_one_heat_map():
    """The same Gaussian map of sigma 1 for every stack, with equal weights."""
    stacks = drawn(*[(1, 1, 9, 9)] * 3)
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    heatmap = torch.exp(-((x - 4) ** 2 + (y - 3) ** 2) / 2).double()[None, None]
    term = hw.Term(
        "joints",
        losses.squared_error,
        normalizers.elements,
        output="stacks[*].heatmap",
        target="heatmap",
        levels=Levels(),
    )
    breakdown = hw.Criterion([term])({"stacks": [{"heatmap": stack} for stack in stacks]}, {"heatmap": heatmap})
    assert_sum(breakdown, stacks, sum(F.mse_loss(stack, heatmap) for stack in stacks))
    assert breakdown["joints"].levels is not None
    assert breakdown["joints"].levels.shape == (3,)
