"""Pull and push: the published defects (A1 to A9) and their mending."""

import pytest
import torch

from headwise import losses, normalizers
from tests.asserts import ForbidSync
from tests.reference import losses as reference

MENDED = [losses.pull, losses.push]
PUBLISHED = [losses.published_pull, losses.published_push]
EACH = pytest.mark.parametrize("loss", MENDED + PUBLISHED, ids=lambda each: each.__name__)


def drawn(seed=0, batch=3, slots=6, num_objects=None):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(batch, 1, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2)]
    indices = [torch.randint(0, 20, (batch, slots), generator=generator) for _ in range(2)]
    mask = torch.rand(batch, slots, generator=generator) < 0.6
    if num_objects is not None:
        mask = (torch.arange(slots) < num_objects).expand(batch, slots).contiguous()
    return *maps, *indices, mask


def evaluate(loss, left, right, *rest):
    maps = [each.detach().clone().requires_grad_() for each in (left, right)]
    value = loss(*maps, *rest)
    return value.detach(), *torch.autograd.grad(value, maps)


def authors(left, right, left_index, right_index, mask):
    """The authors' formulation in tensors, for uint8 masks of 0 and 1 alone: ``mask + mask == 2`` finds pairs."""
    first, second = (each.flatten(1).gather(1, index) for each, index in ((left, left_index), (right, right_index)))
    num = mask.sum(1, keepdim=True).to(first.dtype)
    mean = (first + second) / 2
    pull = (((first - mean) ** 2 + (second - mean) ** 2) / (num + 1e-4) * mask).sum()
    pairs = (mask.unsqueeze(1) + mask.unsqueeze(2)).eq(2)
    distance = torch.relu(1 - (mean.unsqueeze(1) - mean.unsqueeze(2)).abs()) - 1 / (num.unsqueeze(2) + 1e-4)
    push = (distance / ((num - 1) * num + 1e-4).unsqueeze(2) * pairs).sum()
    return pull, push


@pytest.mark.parametrize(("batch", "slots"), [(3, 6), (1, 1), (1, 128), (2, 128)])
def test_matches_the_slow_reference(batch, slots):
    arguments = drawn(batch=batch, slots=slots)
    arrays = [each.numpy() for each in arguments]
    assert losses.pull(*arguments).item() == pytest.approx(reference.pull(*arrays), rel=1e-12)
    assert losses.push(*arguments).item() == pytest.approx(reference.push(*arrays), rel=1e-12)
    wide = reference.push(*arrays, margin=1.5)
    assert losses.push(*arguments, margin=1.5).item() == pytest.approx(wide, rel=1e-12)


def test_published_is_the_authors_formulation():
    left, right, left_index, right_index, mask = arguments = drawn(batch=4)
    wanted = authors(left, right, left_index, right_index, mask.to(torch.uint8))
    for loss, value in zip(PUBLISHED, wanted, strict=True):
        torch.testing.assert_close(loss(*arguments), value, rtol=1e-12, atol=0)


@EACH
def test_gradients(loss):
    left, right, *rest = drawn(batch=2)
    assert torch.autograd.gradcheck(
        lambda a, b: loss(a, b, *rest), (left.requires_grad_(), right.requires_grad_()), check_batched_grad=True
    )


def test_a1_the_authors_push_vanishes_under_a_bool_mask():
    arguments = drawn()
    assert authors(*arguments)[1] == 0
    assert losses.push(*arguments) > 0
    assert losses.published_push(*arguments) > 0


@EACH
@pytest.mark.parametrize(("dtype", "scale"), [(torch.uint8, 1), (torch.uint8, 128), (torch.uint8, 255)])
@pytest.mark.parametrize("wide", [torch.int64, torch.float32, None])
def test_masks_of_any_dtype_and_value(loss, dtype, scale, wide):
    """A1, A2, A3, A8, A9."""
    *rest, mask = drawn()
    other = mask.to(dtype) * scale
    other = other if wide is None else other.to(wide)
    assert torch.equal(loss(*rest, other), loss(*rest, mask))


@EACH
def test_a4_one_image_and_one_slot(loss):
    left, right, left_index, right_index, _ = drawn(batch=1, slots=1)
    value = loss(left, right, left_index, right_index, torch.ones(1, 1, dtype=torch.bool))
    assert value.isfinite()
    assert torch.equal(value, loss(left, right, left_index, right_index))


def test_a5_one_object_costs_no_push():
    arguments = drawn(num_objects=1)
    value, *gradients = evaluate(losses.push, *arguments)
    assert value == 0
    published, *no_gradients = evaluate(losses.published_push, *arguments)
    assert float(published) == pytest.approx(3 * 0.9999, abs=1e-5)
    assert all((each == 0).all() for each in gradients + no_gradients)


@pytest.mark.parametrize("num_objects", [2, 5, 128])
def test_a5_the_diagonal_is_left_out_exactly(num_objects):
    """Objects far apart cost nothing; theirs keeps n e / (n + e) / (n (n - 1) + e) less the pairs' 1 / n."""
    slots = torch.arange(128).unsqueeze(0)
    far = (10.0 * torch.arange(128, dtype=torch.float64)).view(1, 1, 8, 16)
    mask = slots < num_objects
    assert losses.push(far, far, slots, slots, mask) == 0
    near = torch.zeros_like(far)
    assert float(losses.push(near, near, slots, slots, mask)) == 1
    n, e = num_objects, 1e-4
    wanted = (n - n * n / (n + e)) / (n * (n - 1) + e)
    assert wanted > 0
    only_diagonal = losses.published_push(far, far, slots, slots, mask)
    assert float(only_diagonal) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("copies", [2, 4, 8])
def test_a6_a7_the_mean_over_images_does_not_grow_with_the_batch(copies):
    one = drawn(batch=1, num_objects=4)
    many = [each.expand(copies, *each.shape[1:]) for each in one]
    for mended, published in zip(MENDED, PUBLISHED, strict=True):
        torch.testing.assert_close(published(*many), copies * published(*one), rtol=1e-12, atol=0)
        assert normalizers.one(many[4]) == 1
        per_image = mended(*many) / normalizers.images(many[4])
        torch.testing.assert_close(per_image, mended(*one), rtol=1e-6, atol=0)


@EACH
def test_without_an_object_all_is_zero_though_the_maps_are_not_finite(loss):
    left, right, left_index, right_index, mask = drawn()
    index = left_index.masked_fill(~mask, 10**6), right_index.masked_fill(~mask, -1)
    wanted = evaluate(loss, left, right, left_index, right_index, mask)
    for found, each in zip(evaluate(loss, left, right, *index, mask), wanted, strict=True):
        assert torch.equal(found, each)
    empty = evaluate(loss, left * torch.nan, right * torch.inf, left_index * 0, right_index * 0, mask & False)
    assert all((each == 0).all() for each in empty)


@EACH
def test_images_add_up(loss):
    arguments = drawn(batch=4)
    parts = [loss(*(each[i : i + 1] for each in arguments)) for i in range(4)]
    torch.testing.assert_close(sum(parts), loss(*arguments), rtol=1e-12, atol=0)


@EACH
def test_half_precision_sums_in_float32(loss):
    left, right, *rest = drawn()
    value, *gradients = evaluate(loss, left.bfloat16(), right.bfloat16(), *rest)
    assert value.dtype == torch.float32
    assert [each.dtype for each in gradients] == [torch.bfloat16] * 2


@EACH
def test_no_sync_and_one_graph(loss):
    arguments = drawn(batch=2)
    with ForbidSync():
        wanted = evaluate(loss, *arguments)
    found = evaluate(torch.compile(loss, fullgraph=True, backend="aot_eager"), *arguments)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


def test_errors():
    left, right, left_index, right_index, mask = drawn()
    with pytest.raises(ValueError, match="one number a pixel"):
        losses.pull(left.expand(3, 2, 4, 5), right, left_index, right_index, mask)
    with pytest.raises(ValueError, match="Give every slot one element"):
        losses.push(left, right, left_index, right_index, mask[:, :2])
    with pytest.raises(ValueError, match="same objects"):
        losses.push(left, right, left_index, right_index[:, :2])
    with pytest.raises(ValueError, match="margin must be positive"):
        losses.push(left, right, left_index, right_index, mask, margin=0)
