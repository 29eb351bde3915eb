"""`headwise.testing` finds what depends on the split, names it and says why; every preset passes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import headwise as hw
from headwise import losses, normalizers
from headwise.testing import assert_split_invariant
from tests.criterion.samples import squared
from tests.presets.samples import PRESETS, sample


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_split_invariant(name, dtype):
    report = assert_split_invariant(*sample(name, 6, empty=4, dtype=dtype))
    assert [row.name for row in report.rows] == [*PRESETS[name][0]().names, "total"]
    assert report.total.error <= report.rtol == {torch.float64: 1e-12, torch.float32: 1e-6}[dtype]
    # Every pixel counts alike in "mean", so that singles have the mean of means right; uneven parts do not.
    assert report.total.mean_of_means > 0.05
    assert not report.failures


def test_dice_is_exact_by_two_passes_and_its_smooth_counts_once():
    drawn = torch.Generator().manual_seed(0)
    outputs = {"maps": torch.randn(5, 2, 4, 4, generator=drawn, dtype=torch.float64)}
    targets = {"label": (torch.rand(5, 1, 4, 4, generator=drawn) < 0.2).expand(5, 2, 4, 4)}
    criterion = hw.Criterion([hw.RatioTerm("overlap", losses.dice, output="maps", target="label", weight=2.0)])
    report = assert_split_invariant(criterion, outputs, targets, splits=[(1, 4), (2, 2, 1)])
    assert report.total.error <= 1e-12
    assert report.total.mean_of_means > 1e-3

    each_smoothed = hw.RatioTerm("overlap", _smoothed_in_each_part, output="maps", target="label")
    with pytest.raises(AssertionError, match=r"term 'overlap'.*1, 4"):
        assert_split_invariant(hw.Criterion([each_smoothed]), outputs, targets, splits=[(1, 4)])


def _smoothed_in_each_part(output, target):
    ratio = losses.dice(output, target)
    return hw.Ratio(ratio.numerator, ratio.denominator + ratio.smooth)


def test_hard_negatives_of_the_batch_are_named_with_their_reason():
    _, outputs, targets = sample("textsnake", 6, empty=4)
    criterion = hw.presets.textsnake()
    with pytest.raises(AssertionError) as caught:
        assert_split_invariant(criterion, outputs, targets)
    message = str(caught.value)
    assert message.startswith("term 'text_region': split into micro-batches of ")
    assert "at output 'maps'" in message
    assert "the hardest negatives are chosen over the micro-batch; per_image is exact" in message
    assert not any(line.startswith("term 'sin'") for line in message.splitlines())
    report = assert_split_invariant(criterion, outputs, targets, exempt=["text_region"])
    assert report.rows[0].error > 0.1  # let pass, yet reported
    assert report.total.error <= 1e-12
    assert report.rows[0].why is not None


@pytest.mark.parametrize(
    ("criterion", "name", "variant"),
    [
        (hw.presets.cornernet(as_published=True), "cornernet", set(hw.presets.cornernet().names)),
        (hw.presets.textsnake(as_published=True), "textsnake", {"text_region", "radius", "sin", "cos"}),
        (hw.presets.retinanet(as_published=True), "retinanet", set()),
        (hw.presets.ssd(as_published=True, num_levels=2), "ssd", set()),
    ],
)
def test_published_terms_that_depend_on_the_split_say_so(criterion, name, variant):
    assert set(criterion.split_variants) == variant
    _, outputs, targets = sample(name, 6, empty=4)
    found = criterion(outputs, targets)
    assert {each for each in found if found[each].split_variant} == variant
    assert_split_invariant(criterion, outputs, targets, exempt=variant)


def test_a_loss_that_averages_is_found():
    def averaged(output, target):
        return (output - target).square().mean()

    terms = [
        hw.Term("mean", averaged, normalizers.one, output="a", target="t"),
        hw.Term("sum", squared, output="b", target="t"),
    ]
    outputs = {name: torch.arange(3.0).reshape(3, 1) for name in "ab"}
    with pytest.raises(AssertionError, match=r"term 'mean'.*'a'.*return a sum") as caught:
        assert_split_invariant(hw.Criterion(terms), outputs, {"t": torch.zeros(3, 1)})
    assert "term 'sum'" not in str(caught.value).split("\n\n")[0]

    averaged.split_variant = "it averages"  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="it averages"):
        assert_split_invariant(hw.Criterion(terms), outputs, {"t": torch.zeros(3, 1)})


def test_by_hand():
    """One element in the first image, three in the second: (2 * 1 + 2 * 3 * 1) / 4 against the mean of means."""
    outputs = {"x": torch.ones(2, 3, dtype=torch.float64)}
    targets = {"t": torch.zeros(2, 3, dtype=torch.float64), "m": torch.tensor([[1, 0, 0], [1, 1, 1]]).bool()}
    term = hw.Term("x", squared, output="x", target="t", mask="m")
    report = assert_split_invariant(hw.Criterion([term]), outputs, targets)
    assert report.total.error == 0
    # whole: 2 / 4 at four places; mean of means: 2 / 2 at one, 2 / 6 at three.
    wanted = (0.5**2 + 3 * (0.5 - 1 / 3) ** 2) ** 0.5 / (4 * 0.5**2) ** 0.5
    assert report.total.mean_of_means == pytest.approx(wanted, rel=1e-12)
    assert report.total.split == (1, 1)
    assert "1+1" in str(report)


def test_a_gradient_where_none_should_be_is_an_error_without_bound():
    def vanishing(output, target):  # nothing as a whole, something in parts
        return output.sum() * (0.0 if len(output) == 2 else 1.0)

    term = hw.Term("x", vanishing, 1.0, output="x", target="t")
    with pytest.raises(AssertionError, match="inf"):
        assert_split_invariant(hw.Criterion([term]), {"x": torch.ones(2, 3)}, {"t": torch.zeros(2)})


def test_misuse_is_told():
    criterion = hw.Criterion([hw.Term("x", squared, output="x", target="t")])
    good = {"x": torch.ones(3, 2)}, {"t": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match="at least 2 images"):
        assert_split_invariant(criterion, {"x": torch.ones(1, 2)}, {"t": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="output 'x' has 3, target 't' has 2"):
        assert_split_invariant(criterion, {"x": torch.ones(3, 2)}, {"t": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="add up to the 3 images; found \\(1, 1\\)"):
        assert_split_invariant(criterion, *good, splits=[(1, 1)])
    with pytest.raises(ValueError, match="no term 'y' to exempt"):
        assert_split_invariant(criterion, *good, exempt="y")


def test_inputs_are_left_as_they_are():
    outputs, targets = {"x": torch.ones(3, 2, requires_grad=True)}, {"t": torch.zeros(3, 2)}
    assert_split_invariant(hw.Criterion([hw.Term("x", squared, output="x", target="t")]), outputs, targets)
    assert outputs["x"].grad is None
    assert outputs["x"].is_leaf
    assert partial(hw.presets.textsnake, selection="image")().split_variants == {}


def test_the_trace_prints_what_depends_on_the_split():
    criterion = hw.presets.textsnake()
    _, outputs, targets = sample("textsnake", 2, dtype=torch.float32)
    network = torch.nn.Conv2d(7, 7, 1)
    breakdown = criterion({"maps": network(outputs["maps"])}, targets)
    text = str(hw.attribution.trace(breakdown, network))
    assert "loss 'text_region' depends on how a batch is split: the hardest negatives" in text
    assert "'center_line' depends" not in text
