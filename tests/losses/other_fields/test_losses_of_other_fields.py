"""Losses that read several outputs, or count what they do not compare: values, gradients, masks, nothing, errors."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck

from headwise import losses, normalizers
from tests.asserts import ForbidSync
from tests.reference import other_fields as slow


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TOKENS = torch.zeros(3, 4, dtype=torch.long)
ROUTED = torch.rand(3, 4, generator=torch.Generator().manual_seed(9)) < 0.6
ATOMS = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]]).bool()
ADVANTAGE, BEFORE, ENERGY = drawn(3, 4, seed=1), drawn(3, 4, seed=2), drawn(4, seed=1)
ROWS = torch.tensor([True, False, True, True])


def contrastive(query, key, scale, mask=None):
    return losses.contrastive(query, key, scale, torch.arange(len(query)), mask)


def slow_contrastive(query, key, scale, mask=None):
    return slow.contrastive(query, key, scale, torch.arange(4).numpy(), mask)


def slow_balance(first, second, mask=None):
    return slow.published_load_balance([first, second], TOKENS.numpy(), mask)


def clipped(output, mask=None):
    return losses.clipped_policy_gradient(output, ADVANTAGE, BEFORE, mask)


def slow_clipped(output, mask=None):
    return slow.clipped_policy_gradient(output, ADVANTAGE.numpy(), BEFORE.numpy(), mask)


def per_atom(output, mask=None):
    return losses.per_atom_squared_error(output, ENERGY, ATOMS, mask)


def slow_per_atom(output, mask=None):
    return slow.per_atom_squared_error(output, ENERGY.numpy(), ATOMS.numpy(), mask)


# Loss and slow loss of the outputs and a mask, the outputs, the mask.
MASKED: dict[str, Any] = {
    "published_load_balance": (
        lambda *x, mask=None: losses.published_load_balance(*x, target=TOKENS, mask=mask),
        slow_balance,
        (drawn(3, 4, 5), drawn(3, 4, 5, seed=1)),
        ROUTED,
    ),
    "clipped_policy_gradient": (clipped, slow_clipped, (drawn(3, 4),), ROUTED),
    "per_atom_squared_error": (per_atom, slow_per_atom, (drawn(4),), ROWS),
    "contrastive": (
        contrastive,
        slow_contrastive,
        (drawn(4, 3), drawn(4, 3, seed=1), torch.tensor(0.4, dtype=torch.float64)),
        ROWS,
    ),
}
IMAGES = torch.zeros(3, 2)
PLAIN = {
    "one_sided_squared_error": (drawn(3, 2, 2), drawn(3, 2, 2, seed=1)),
    "generator_hinge": (drawn(3, 1, 4),),
    "discriminator_hinge, real": (drawn(3, 1, 4),),
    "discriminator_hinge, made": (drawn(3, 1, 4),),
}


def plain(name, room):
    name, _, kind = name.partition(", ")
    return partial(getattr(room, name), **({"real": kind == "real"} if kind else {}))


each_masked = pytest.mark.parametrize("name", MASKED)
each_plain = pytest.mark.parametrize("name", PLAIN)


@each_masked
def test_masked_loss_is_the_slow_one_and_has_its_gradient(name):
    loss, reference, outputs, mask = MASKED[name]
    for keep in (None, mask):
        wanted = reference(*(each.numpy() for each in outputs), mask=None if keep is None else keep.numpy())
        torch.testing.assert_close(loss(*outputs, mask=keep).item(), float(wanted), rtol=1e-12, atol=1e-12)
        held = [each.clone().requires_grad_() for each in outputs]
        assert gradcheck(partial(loss, mask=keep), held)
    torch._dynamo.reset()
    compiled: Any = torch.compile(partial(loss, mask=mask), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*outputs), loss(*outputs, mask=mask), rtol=1e-12, atol=1e-12)


@each_masked
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_mask_hides(name, poison):
    loss, _, outputs, mask = MASKED[name]
    found = []
    for value in (0.5, poison):
        held = [
            each.clone() if each.ndim == 0 else each.clone().index_put((~mask,), torch.tensor(value).double())
            for each in outputs
        ]
        for each in held:
            each.requires_grad_()
        with ForbidSync():
            total = loss(*held, mask=mask)
            total.backward()
        found.append([total.detach(), *(each.grad for each in held)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(each.isfinite().all() for each in found[1])
    assert all((each[~mask] == 0).all() for each in found[1][1:] if each.ndim)


@each_masked
def test_empty_mask_is_zero_with_a_zero_gradient(name):
    loss, _, outputs, mask = MASKED[name]
    held = [each.clone().requires_grad_() for each in outputs]
    total = loss(*held, mask=torch.zeros_like(mask))
    assert total == 0
    assert not any(each.any() for each in torch.autograd.grad(total, held))


@each_masked
def test_half_precision_counts_in_float32(name):
    loss, _, outputs, mask = MASKED[name]
    for half in (torch.float16, torch.bfloat16):
        rounded = [each.to(half) for each in outputs]
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(*rounded, mask=mask)
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.double(), loss(*(each.double() for each in rounded), mask=mask), rtol=2e-6, atol=1e-6
        )


@each_plain
def test_means_within_images(name):
    outputs, loss = PLAIN[name], plain(name, losses)
    wanted = float(plain(name, slow)(*(each.numpy() for each in outputs), None))
    torch.testing.assert_close(loss(*outputs, IMAGES).item(), wanted, rtol=1e-12, atol=0)
    held = [each.clone().requires_grad_() for each in outputs[:1]]
    assert gradcheck(lambda output: loss(output, *outputs[1:], IMAGES), held)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*outputs, IMAGES), loss(*outputs, IMAGES), rtol=1e-12, atol=0)
    parts = [loss(*(each[cut] for each in outputs), IMAGES[cut]) for cut in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(parts[0] + parts[1], loss(*outputs, IMAGES), rtol=1e-12, atol=0)
    assert normalizers.images(IMAGES) == 3
    for half in (torch.float16, torch.bfloat16):
        assert loss(*(each.to(half) for each in outputs), IMAGES).dtype == torch.float32


@each_plain
@pytest.mark.parametrize("empty", ["no image", "no element"])
def test_nothing_is_zero(name, empty):
    outputs = [each[:0] if empty == "no image" else each[..., :0] for each in PLAIN[name]]
    held = [each.clone().requires_grad_() for each in outputs]
    total = plain(name, losses)(*held, IMAGES[:0] if empty == "no image" else IMAGES)
    assert total == 0
    assert torch.autograd.grad(total, held[0])[0].shape == held[0].shape


def test_what_is_held_gets_no_gradient():
    moved, held = drawn(3, 2).requires_grad_(), drawn(3, 2, seed=1).requires_grad_()
    losses.one_sided_squared_error(moved, held, IMAGES).backward()
    torch.testing.assert_close(moved.grad, (moved - held).detach(), rtol=1e-12, atol=0)  # 2 / 2 elements
    assert held.grad is None


def test_balance_is_one_a_token_where_experts_are_used_alike():
    """Four tokens, each sure of another of four experts: f = p = 1/4, and 4 * 4 * (1/4)^2 a token."""
    even = 100 * torch.eye(4).unsqueeze(0)
    label = torch.zeros(1, 4, dtype=torch.long)
    assert losses.load_balance(even, label).item() == pytest.approx(4.0)
    assert losses.published_load_balance(even, target=label, top_k=2).item() == pytest.approx(8.0, rel=0.5)
    collapsed = 100 * torch.eye(4)[:1].expand(4, 4).unsqueeze(0)
    assert losses.load_balance(collapsed, label).item() == pytest.approx(16.0)
    # Flat logits, as transformers returns them, are the same.
    assert losses.load_balance(collapsed[0], label).item() == pytest.approx(16.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_ratio_beyond_all_numbers_is_clipped(dtype):
    """Its gradient was 0 * inf, and so was the value of an advantage of 0."""
    output = torch.tensor([0.0, 0.0, -1.0], dtype=dtype, requires_grad=True)
    advantage, before = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([-1000.0, -1000.0, -1.0])
    total = losses.clipped_policy_gradient(output, advantage, before)
    total.backward()
    assert total.item() == pytest.approx(-2.2)
    assert output.grad is not None
    assert output.grad.tolist() == [0, 0, -1]


def test_a_surrogate_beyond_the_clip_has_no_gradient():
    """Ratios 2 and 0.5 at clip 0.2: clipped where it would gain (A r > A 1.2, A > 0; and A < 0 below 0.8)."""
    output = torch.tensor([2.0, 2.0, 0.5, 0.5]).log().requires_grad_()
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    total = losses.clipped_policy_gradient(output, advantage, torch.zeros(4))
    total.backward()
    assert total.item() == pytest.approx(-(1.2 - 2.0 + 0.5 - 0.8))
    torch.testing.assert_close(output.grad, torch.tensor([0.0, 2.0, -0.5, 0.0]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.token_cross_entropy(drawn(2, 5, 3), TOKENS[:2, :3]), r"\(N, L, V\).*use cross_entropy"),
        (lambda: losses.token_cross_entropy(drawn(3, 4, 3), TOKENS.double()), "tokens are integers"),
        (lambda: losses.load_balance(drawn(3, 5, 4), TOKENS), r"\(N \* L, E\) for a target \(N, L\)"),
        (lambda: losses.load_balance(drawn(3, 4, 5), TOKENS, ROUTED[:2]), "the mask must have the target's shape"),
        (lambda: losses.load_balance(drawn(3, 4, 5), TOKENS, top_k=6), "top_k is from 1 to the number of experts 5"),
        (lambda: losses.published_load_balance(target=TOKENS), "found none"),
        (lambda: losses.clipped_policy_gradient(*[drawn(3)] * 3, clip=0.0), "clip must be positive, found 0.0"),
        (lambda: losses.clipped_policy_gradient(drawn(3), drawn(3), drawn(2)), "one shape"),
        (lambda: losses.squared_distance(drawn(3, 2, 3), drawn(3, 2, 3), ROUTED), "one mask value a vector"),
        (lambda: losses.per_atom_squared_error(drawn(3), drawn(3), ATOMS), "which slots of each molecule"),
        (lambda: losses.one_sided_squared_error(drawn(3, 2), drawn(3, 1), IMAGES), "both outputs have one shape"),
        (lambda: losses.generator_hinge(drawn(2, 2), IMAGES), "belong to the same images"),
        (lambda: contrastive(drawn(3, 2), drawn(2, 2), drawn(())), "Give one row a pair"),
        (lambda: contrastive(drawn(3, 2), drawn(3, 2), drawn(3)), "a scale of one element"),
    ],
)
def test_message(call, words):
    with pytest.raises(ValueError, match=words):
        call()
