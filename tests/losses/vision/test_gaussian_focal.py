"""The focal loss of heat maps: the published defects (F1 to F9) on the authors' formulation, and their mending."""

import math
from typing import Any

import pytest
import torch

from headwise import losses, normalizers
from tests.asserts import ForbidSync, value_and_gradient


def authors(output, target):
    """The authors' formulation in tensors, the in-place sigmoid apart: sum of both parts, in the output's dtype."""
    probability = torch.clamp(output.sigmoid(), min=1e-4, max=1 - 1e-4)
    positive, negative = target.eq(1), target.lt(1)
    sums = torch.log(probability[positive]) * (1 - probability[positive]).square()
    others = torch.log(1 - probability[negative]) * probability[negative].square() * (1 - target[negative]).pow(4)
    return -(sums.sum() + others.sum())


def heat_maps(seed=0, shape=(2, 3, 5, 6), scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    target = (1.3 * torch.rand(shape, generator=generator, dtype=torch.float64)).clamp(max=1)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64), target


@pytest.mark.parametrize("scale", [2.0, 12.0])
def test_published_is_the_authors_formulation(scale):
    output, target = heat_maps(scale=scale)
    target[0, 0, 0, :2] = 1.2
    value, gradient = value_and_gradient(losses.published_gaussian_focal, output, target)
    wanted, wanted_gradient = value_and_gradient(authors, output, target)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-10, atol=1e-16)


def test_both_agree_between_the_clamps():
    output, target = heat_maps()
    assert output.abs().max() < 9.2
    value, gradient = value_and_gradient(losses.gaussian_focal, output, target)
    wanted, wanted_gradient = value_and_gradient(losses.published_gaussian_focal, output, target)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-10, atol=1e-16)


def test_a_positive_and_a_negative_by_hand():
    """At logit 0 both classes have 1/2: a quarter of log 2, the negative's weighed by (1/2)^4."""
    output, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.5]]]])
    value, gradient = value_and_gradient(losses.gaussian_focal, output, target)
    assert value == pytest.approx(math.log(2) / 4 * (1 + 1 / 16))
    slope = (math.log(2) + 0.5) / 4
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-slope, slope / 16]))


def test_f1_output_is_left_as_it_is():
    output, target = heat_maps()
    before = output.clone()
    for loss in (losses.gaussian_focal, losses.published_gaussian_focal):
        loss(output, target)
        loss(output.requires_grad_(), target).backward()
        output = output.detach()
        assert torch.equal(output, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [9.3, 30.0, 100.0])
def test_f2_the_worst_mistakes_have_a_gradient(logit, dtype):
    output, target = torch.tensor([[[[-logit, logit]]]], dtype=dtype), torch.tensor([[[[1.0, 0.0]]]], dtype=dtype)
    _, clamped = value_and_gradient(losses.published_gaussian_focal, output, target)
    assert (clamped == 0).all()
    value, gradient = value_and_gradient(losses.gaussian_focal, output, target)
    p = 1 / (1 + math.exp(-logit))
    slope = p**2 * (2 * math.exp(-logit) * p * logit + p)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-slope, slope], dtype=dtype))
    assert float(value) == pytest.approx(2 * p**2 * (logit + math.log1p(math.exp(-logit))))


def test_f2_the_number_of_the_specification():
    output, target = torch.tensor([[[[-9.3, 20.0]]]]).double(), torch.ones(1, 1, 1, 2).double()
    _, gradient = value_and_gradient(losses.gaussian_focal, output, target)
    assert float(gradient[..., 0]) / float(normalizers.peaks(target)) == pytest.approx(-0.5007, abs=5e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_f3_half_precision(dtype):
    output, target = torch.full((1, 1, 1, 1), 9.0, dtype=dtype), torch.zeros(1, 1, 1, 1)
    value, gradient = value_and_gradient(authors, output, target.to(dtype))
    assert value == torch.inf
    for loss in (losses.gaussian_focal, losses.published_gaussian_focal):
        value, gradient = value_and_gradient(loss, output, target)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(9.0, rel=1e-3)
        assert gradient.dtype == dtype
        assert float(gradient) == pytest.approx(1.0, rel=1e-2)


def test_f4_no_peak():
    target = heat_maps()[1].clamp(max=0.9)
    assert normalizers.published_peaks(target) == 1
    assert normalizers.peaks(target) == 0
    one_peak = target.clone()
    one_peak[0, 0, 0, 0] = 1
    assert normalizers.published_peaks(one_peak) == normalizers.peaks(one_peak) == 1


def _one_object(peak):
    target = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    target[0, 1, 2, 1:4] = torch.tensor([0.6, peak, 0.6], dtype=torch.float64)
    target[0, 2, 2, 2:4] = torch.tensor([0.3, 0.4], dtype=torch.float64)  # on the slope of a bump around another place
    return target, torch.tensor([[2 * 4 + 2, 0]]), torch.tensor([[True, False]])


@pytest.mark.parametrize("peak", [0.9999, 0.9, 1.5])
def test_f5_a_peak_that_is_not_exactly_one(peak):
    target, index, objects = _one_object(peak)
    output = torch.randn(target.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact, _, _ = _one_object(1.0)
    assert losses.published_gaussian_focal(output, target) < losses.published_gaussian_focal(output, exact)
    found = value_and_gradient(lambda o: losses.gaussian_focal(o, target, index=index, objects=objects), output)
    wanted = value_and_gradient(losses.gaussian_focal, output, exact)
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=0)
    assert normalizers.peaks(target, index=index, objects=objects) == 1
    if peak < 1:
        assert normalizers.peaks(target, tolerance=1 - peak + 1e-9) == 1
        # The same numbers, added in another order.
        tolerant = losses.gaussian_focal(output, target, tolerance=1 - peak + 1e-9)
        torch.testing.assert_close(tolerant, found[0], rtol=1e-14, atol=0)


@pytest.mark.parametrize(("first", "second"), [(1.0, 0.98), (0.7, 0.98), (0.98, 0.98)])
def test_two_objects_of_different_classes_in_one_cell_are_two_positives(first, second):
    target, output = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    target[0, 0, 3, 3], target[0, 1, 3, 3] = first, second
    target[0, 2, 3, 3:5] = torch.tensor([0.8, 0.9])  # no object here, but beside
    where: dict[str, Any] = {"index": torch.tensor([[27, 27, 0]]), "objects": torch.tensor([[True, True, False]])}
    _, gradient = value_and_gradient(lambda o: losses.gaussian_focal(o, target, **where), output)
    assert (gradient[0, :2, 3, 3] < 0).all()
    assert gradient[0, 2, 3, 3] > 0
    assert normalizers.peaks(target, **where) == 2


def test_positives_of_an_index_are_a_set_of_pixels():
    """Two objects of one corner count once, unused slots and empty heat maps not at all, and two classes twice."""
    target, index, objects = _one_object(0.9)
    both = torch.tensor([[True, True]])
    assert normalizers.peaks(target, index=index.new_tensor([[10, 10]]), objects=both) == 1
    assert normalizers.peaks(target, index=index, objects=both) == 1
    assert normalizers.peaks(target, index=index, objects=objects & False) == 0
    assert normalizers.peaks(target, index=index.new_tensor([[10, 10**6]]), objects=objects) == 1
    target[0, 2, 2, 2] = 0.9
    target[0, 2, 2, 3] = 0.0
    assert normalizers.peaks(target, index=index, objects=objects) == 2
    masked = torch.ones_like(target, dtype=torch.bool)
    masked[0, 2] = False
    assert normalizers.peaks(target, masked, index=index, objects=objects) == 1


def test_an_index_on_an_empty_heat_map_makes_no_positive():
    _, index, objects = _one_object(0.9)
    output, _ = heat_maps(shape=(1, 3, 4, 4))
    empty = torch.zeros_like(output)
    assert torch.equal(
        losses.gaussian_focal(output, empty, index=index, objects=objects), losses.gaussian_focal(output, empty)
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_low_peaks_are_positives_once_each_in_any_layout(layout):
    """Objects share a cell, empty slots point at an object's cell, one peak is masked, one is exact."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64).to(memory_format=layout)
    target = 0.5 * torch.rand(2, 3, 5, 6, generator=generator, dtype=torch.float64)
    target[0, 1, 0, 0], target[0, 2, 3, 4], target[1, 0, 4, 5], target[1, 1, 2, 2] = 0.8, 0.9, 1.0, 0.7
    index = torch.tensor([[22, 0, 22, 0, 22], [29, 14, 0, 0, 29]])
    objects = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    mask = torch.ones(2, 3, 5, 6)
    mask[0, 1, 0, 0] = 0
    raised = target.clone()
    raised[0, 2, 3, 4] = raised[1, 1, 2, 2] = 1.0
    found = value_and_gradient(lambda o: losses.gaussian_focal(o, target, mask, index=index, objects=objects), output)
    torch.testing.assert_close(
        found, value_and_gradient(losses.gaussian_focal, output, raised, mask), rtol=1e-12, atol=0
    )
    assert normalizers.peaks(target, mask, index=index, objects=objects) == 3


def test_f6_ranks_add_up():
    output, target = heat_maps(shape=(4, 1, 4, 4))
    target[1:] *= 0.9
    target[1:, :, 0, 0] = 1.0
    whole = losses.gaussian_focal(output, target) / normalizers.peaks(target)
    parts = [(output[i : i + 1], target[i : i + 1]) for i in range(4)]
    mean_of_ranks = sum(losses.published_gaussian_focal(*each) / normalizers.published_peaks(each[1]) for each in parts)
    assert abs(mean_of_ranks / 4 - whole) > 0.05 * whole
    pooled = sum(losses.gaussian_focal(*each) for each in parts) / sum(normalizers.peaks(t) for _, t in parts)
    torch.testing.assert_close(pooled, whole, rtol=1e-12, atol=0)


def test_f7_a_masked_peak_is_not_counted():
    target = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    valid = torch.tensor([[[[1.0, 0.0, 1.0]]]])
    output = torch.zeros(1, 1, 1, 3)
    by_hand = 2 * math.log(2) / 4
    published = losses.published_gaussian_focal(output, target, valid) / normalizers.published_peaks(target, valid)
    mended = losses.gaussian_focal(output, target, valid) / normalizers.peaks(target, valid)
    assert float(published) == pytest.approx(by_hand / 2)
    assert float(mended) == pytest.approx(by_hand)


def test_f9_float32():
    output, target = heat_maps(shape=(2, 8, 32, 32))
    value, gradient = value_and_gradient(losses.gaussian_focal, output.float(), target.float())
    exact, exact_gradient = value_and_gradient(losses.gaussian_focal, output.float().double(), target.float().double())
    assert float(value) == pytest.approx(float(exact), rel=1e-6)
    assert (gradient - exact_gradient).abs().max() < 1e-6 * exact_gradient.abs().max()


def test_published_hides_what_is_masked():
    output, target = heat_maps()
    mask = torch.rand(output.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    wanted = value_and_gradient(losses.published_gaussian_focal, output, target, mask)
    poisoned = output.masked_fill(~mask, torch.nan), target.masked_fill(~mask, torch.nan)
    found = value_and_gradient(losses.published_gaussian_focal, *poisoned, mask.to(torch.uint8) * 128)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


def test_with_an_index_nothing_waits_and_all_compiles():
    target, index, objects = _one_object(0.9)
    output = torch.randn(target.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(output):
        return losses.gaussian_focal(output, target, index=index, objects=objects)

    with ForbidSync():
        wanted = value_and_gradient(loss, output)
        normalizers.peaks(target, index=index, objects=objects)
    found = value_and_gradient(torch.compile(loss, fullgraph=True, backend="aot_eager"), output)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_errors():
    output, target = heat_maps()
    with pytest.raises(ValueError, match="alpha and beta are at least 0"):
        losses.gaussian_focal(output, target, alpha=-1)
    with pytest.raises(ValueError, match="tolerance"):
        losses.gaussian_focal(output, target, tolerance=1.0)
    with pytest.raises(ValueError, match="must have one shape"):
        losses.published_gaussian_focal(output, target[:1])
    with pytest.raises(ValueError, match="index must be integer"):
        losses.gaussian_focal(output, target, index=torch.zeros(2, 3))
