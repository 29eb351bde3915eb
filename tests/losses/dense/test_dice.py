import pytest
import torch

from headwise import losses
from tests.reference import losses as reference


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    target = torch.rand(2, 3, 4, generator=generator) < 0.4
    return output, target, torch.rand(2, 3, 4, generator=generator) < 0.7


def test_matches_the_slow_reference():
    output, target, mask = drawn()
    for arguments in ((output, target, mask), (output, target)):
        expected = reference.dice(*(tensor.numpy() for tensor in arguments))
        assert losses.dice(*arguments).value.item() == pytest.approx(expected, rel=1e-12)


def test_by_hand():
    certain = torch.tensor([[100.0, 100.0, -100.0]])
    ratio = losses.dice(certain, torch.tensor([[1, 0, 0]]), smooth=0)
    assert (ratio.numerator.item(), ratio.denominator.item()) == (1, 3)


def test_pools_and_masks():
    output, target, mask = drawn(1)
    parts = losses.dice(output[:1], target[:1], smooth=0) + losses.dice(output[1:], target[1:], smooth=0)
    torch.testing.assert_close(parts.value, losses.dice(output, target, smooth=0).value)
    poisoned = output.masked_fill(~mask, torch.nan).requires_grad_()
    torch.testing.assert_close(losses.dice(poisoned, target, mask).value, losses.dice(output, target, mask).value)
    (gradient,) = torch.autograd.grad(losses.dice(poisoned, target, mask).value, poisoned)
    assert gradient.isfinite().all()
    assert torch.autograd.gradcheck(lambda x: losses.dice(x, target, mask).value, output.clone().requires_grad_())


def test_nothing_to_count_is_zero():
    output = torch.zeros(1, 2, requires_grad=True)
    value = losses.dice(output, torch.zeros(1, 2), torch.zeros(1, 2), smooth=0).value
    (gradient,) = torch.autograd.grad(value, output)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(output))
