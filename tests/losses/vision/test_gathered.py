"""Losses at the places of objects alone."""

import pytest
import torch

from headwise import losses
from tests.asserts import ForbidSync, value_and_gradient
from tests.reference import losses as reference


def drawn(seed=0, batch=3, slots=6):
    generator = torch.Generator().manual_seed(seed)
    output = 2 * torch.randn(batch, 2, 4, 5, generator=generator, dtype=torch.float64)
    index = torch.randint(0, 20, (batch, slots), generator=generator)
    target = torch.rand(batch, slots, 2, generator=generator, dtype=torch.float64)
    return output, index, target, torch.rand(batch, slots, generator=generator) < 0.6


@pytest.mark.parametrize(("batch", "slots", "beta"), [(3, 6, 1.0), (1, 1, 0.5), (1, 128, 1.0), (4, 128, 2.0)])
def test_matches_the_slow_reference(batch, slots, beta):
    arguments = drawn(batch=batch, slots=slots)
    wanted = reference.gathered_smooth_l1(*(each.numpy() for each in arguments), beta=beta)
    assert losses.gathered_smooth_l1(*arguments, beta=beta).item() == pytest.approx(wanted, rel=1e-12)
    everything = (*arguments[:3], torch.ones_like(arguments[3]))
    assert torch.equal(losses.gathered_smooth_l1(*arguments[:3]), losses.gathered_smooth_l1(*everything))


def test_by_hand():
    output = torch.zeros(1, 2, 2, 3)
    output[0, :, 1, 2] = torch.tensor([0.75, 3.25])
    value, gradient = value_and_gradient(
        losses.gathered_smooth_l1, output, torch.tensor([[5]]), torch.tensor([[[0.25, 0.25]]]), torch.tensor([[1]])
    )
    assert value == 0.5**2 / 2 + (3 - 0.5)
    assert torch.equal(gradient[0, :, 1, 2], torch.tensor([0.5, 1.0]))
    assert gradient.sum() == 1.5


def test_gradients_of_both_orders():
    output, index, target, mask = drawn(batch=2)
    output.requires_grad_()
    assert torch.autograd.gradcheck(lambda o: losses.gathered_smooth_l1(o, index, target, mask), output)
    assert torch.autograd.gradgradcheck(
        lambda o: losses.gathered_smooth_l1(o, index, target, mask) * (1 + o.sum()), output
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_what_is_no_object_is_hidden_whatever_the_dtype_of_the_mask(dtype):
    """A2, A8: an int64 mask picks other elements (27.95 for 1.3010), a uint8 of 255 none."""
    output, index, target, mask = drawn()
    wanted, gradient = value_and_gradient(losses.gathered_smooth_l1, output, index, target, mask)
    wrong = index.masked_fill(~mask, 10**6), target.masked_fill(~mask.unsqueeze(2), torch.nan)
    other = mask.to(dtype) * (255 if dtype == torch.uint8 else 1)
    found, found_gradient = value_and_gradient(losses.gathered_smooth_l1, output, *wrong, other)
    assert torch.equal(found, wanted)
    assert torch.equal(found_gradient, gradient)


def test_no_object_is_zero_though_the_map_is_not_finite():
    output, index, target, mask = drawn()
    value, gradient = value_and_gradient(
        losses.gathered_smooth_l1, output * torch.nan, index * 0, target, torch.zeros_like(mask)
    )
    assert value == 0
    assert (gradient == 0).all()


def test_half_precision_sums_in_float32():
    output, index, target, mask = drawn()
    value, gradient = value_and_gradient(losses.gathered_smooth_l1, output.half(), index, target.float(), mask)
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.float16


def test_no_sync_and_one_graph():
    output, index, target, mask = drawn()
    with ForbidSync():
        wanted = value_and_gradient(losses.gathered_smooth_l1, output, index, target, mask)
    compiled = torch.compile(losses.gathered_smooth_l1, fullgraph=True, backend="aot_eager")
    found = value_and_gradient(compiled, output, index, target, mask)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_errors():
    output, index, target, mask = drawn()
    with pytest.raises(ValueError, match="Put the channels last"):
        losses.gathered_smooth_l1(output, index, target.transpose(1, 2), mask)
    with pytest.raises(ValueError, match="index must be integer"):
        losses.gathered_smooth_l1(output, mask, target, index)
    with pytest.raises(ValueError, match="Pass whole maps"):
        losses.gathered_smooth_l1(output[:1], index, target, mask)
    with pytest.raises(ValueError, match="Give every slot one element"):
        losses.gathered_smooth_l1(output, index, target, mask[:, :1])
    with pytest.raises(ValueError, match="beta must be positive"):
        losses.gathered_smooth_l1(output, index, target, mask, beta=0)
