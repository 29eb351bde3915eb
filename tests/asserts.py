"""What every loss must do, whichever it is: each function takes a `LossCase` and fails with an assertion."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class LossCase:
    """A loss with its normalizer, its oracle, and a way to draw inputs for it.

    ``draw(generator, batch)`` returns a float64 output, a target and a bool mask. A mask of fewer dimensions lacks
    dimension `channels`.
    """

    name: str
    loss: Callable[..., Tensor]
    normalizer: Callable[..., Any]
    reference: Callable[..., float]
    draw: Callable[[torch.Generator, int], tuple[Tensor, Tensor, Tensor]]
    adds_over_batches: bool = True
    channels: int = 1

    def outside(self, mask: Tensor, like: Tensor) -> Tensor:
        """Where a tensor is masked."""
        return ~mask if mask.ndim == like.ndim else (~mask).unsqueeze(self.channels).expand(like.shape)

    def inputs(self, seed: int, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
        return self.draw(torch.Generator().manual_seed(seed), batch)


class ForbidSync(TorchDispatchMode):
    """Raises on operators that wait for the device or whose result has a shape that depends on data."""

    forbidden = (
        "aten._local_scalar_dense",
        "aten.nonzero",
        "aten.masked_select",
        "aten.bincount",
        "aten.item",
        "aten.unique",
        "aten.is_nonzero",
        "aten.equal",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith(self.forbidden):
            raise AssertionError(f"forbidden operator {name}")
        if name.startswith(("aten.index.", "aten.index_put", "aten._unsafe_index.")):
            indices = args[1]
            if any(i is not None and i.dtype in {torch.bool, torch.uint8} for i in indices):
                raise AssertionError(f"Boolean indexing in {name}")
        return func(*args, **(kwargs or {}))


def value_and_gradient(loss: Callable[..., Tensor], output: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    output = output.detach().clone().requires_grad_()
    value = loss(output, *rest)
    (gradient,) = torch.autograd.grad(value, output)
    return value.detach(), gradient


def assert_matches_reference(case: LossCase, seed: int) -> None:
    output, target, mask = case.inputs(seed)
    for arguments in ((output, target, mask), (output, target)):
        expected = case.reference(*(tensor.numpy() for tensor in arguments))
        torch.testing.assert_close(
            case.loss(*arguments).item(), float(expected), rtol=1e-12, atol=1e-12, msg=lambda m: f"{case.name}: {m}"
        )


def assert_adds_over_batches(case: LossCase, seed: int) -> None:
    output, target, mask = case.inputs(seed, batch=4)
    for function in (case.loss, lambda _, *rest: case.normalizer(*rest)):
        whole = function(output, target, mask)
        parts = function(output[:1], target[:1], mask[:1]) + function(output[1:], target[1:], mask[1:])
        torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)


def assert_ignores_order_of_batch(case: LossCase, seed: int) -> None:
    output, target, mask = case.inputs(seed, batch=4)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    value, gradient = value_and_gradient(case.loss, output, target, mask)
    permuted, permuted_gradient = value_and_gradient(case.loss, output[order], target[order], mask[order])
    torch.testing.assert_close(permuted, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(permuted_gradient, gradient[order], rtol=1e-12, atol=1e-12)
    assert torch.equal(case.normalizer(target[order], mask[order]), case.normalizer(target, mask))


def assert_mask_hides(case: LossCase, seed: int, poison: float) -> None:
    """What lies outside the mask, NaN and impossible labels included, changes neither value nor any gradient's bit."""
    output, target, mask = case.inputs(seed)
    value, gradient = value_and_gradient(case.loss, output, target, mask)
    outside = case.outside(mask, output)
    poisoned = output.masked_fill(outside, poison)
    hidden = case.outside(mask, target)
    if target.is_floating_point():
        wrong = target.masked_fill(hidden, poison)
    elif target.dtype == torch.bool:
        wrong = target ^ hidden
    else:
        wrong = target.masked_fill(hidden, 10**6)
    found, found_gradient = value_and_gradient(case.loss, poisoned, wrong, mask)
    assert torch.equal(found, value), f"{case.name}: {found} instead of {value}"
    assert torch.equal(found_gradient, gradient)
    assert (found_gradient[outside] == 0).all()
    assert torch.equal(case.normalizer(wrong, mask), case.normalizer(target, mask))


def assert_second_order_is_hidden(case: LossCase, seed: int) -> None:
    """A gradient penalty sees no NaN from outside the mask either."""
    output, target, mask = case.inputs(seed)
    outside = case.outside(mask, output)
    output = output.masked_fill(outside, torch.nan).requires_grad_()
    (gradient,) = torch.autograd.grad(case.loss(output, target, mask), output, create_graph=True)
    if gradient.requires_grad:
        (second,) = torch.autograd.grad(gradient.square().sum(), output, allow_unused=True)
        assert second is None or second.isfinite().all()


def assert_empty_mask_is_zero(case: LossCase, seed: int) -> None:
    output, target, mask = case.inputs(seed)
    value, gradient = value_and_gradient(case.loss, output, target, torch.zeros_like(mask))
    assert value == 0
    assert (gradient == 0).all()
    assert case.normalizer(target, torch.zeros_like(mask)) == 0


def assert_mask_of_any_dtype(case: LossCase, seed: int) -> None:
    output, target, mask = case.inputs(seed)
    for dtype, scale in ((torch.uint8, 255), (torch.int64, 1), (torch.float32, 0.5)):
        other = mask.to(dtype) * scale
        assert torch.equal(case.loss(output, target, other), case.loss(output, target, mask))
        assert torch.equal(case.normalizer(target, other), case.normalizer(target, mask))


def assert_gradients(case: LossCase, seed: int) -> None:
    output, target, mask = case.inputs(seed, batch=2)
    output.requires_grad_()
    for arguments in ((target, mask), (target,)):
        assert gradcheck(
            lambda x, rest=arguments: case.loss(x, *rest), output, check_forward_ad=True, check_batched_grad=True
        )
        # The factor keeps the gradient of piecewise linear losses in the graph.
        assert gradgradcheck(lambda x, rest=arguments: case.loss(x, *rest) * (1 + x.sum()), output)


def assert_no_gradient_without_need(case: LossCase, seed: int) -> None:
    output, target, mask = case.inputs(seed)
    with torch.no_grad():
        plain = case.loss(output.requires_grad_(), target, mask)
    assert not plain.requires_grad
    torch.testing.assert_close(plain, case.loss(output, target, mask).detach(), rtol=0, atol=0)


def assert_finite_at_extremes(case: LossCase, seed: int) -> None:
    output, target, mask = case.inputs(seed)
    signs = torch.where(output > 0, 100.0, -100.0)
    exact, slopes = value_and_gradient(case.loss, signs.double(), target, mask)
    # +-100 is exact in every dtype, so only the precision of the sum may differ: a float32's last bit for what was
    # added, which is more than the sum where terms of both signs cancel (the advantages of a policy gradient).
    rounding = 2.0**-23 * float((signs * slopes).abs().sum())
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        value, gradient = value_and_gradient(case.loss, signs.to(dtype), target, mask)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert gradient.dtype == dtype
        assert value.isfinite()
        assert gradient.isfinite().all()
        torch.testing.assert_close(value.double(), exact, rtol=2e-6, atol=1e-30 + rounding)


def assert_no_sync(case: LossCase, seed: int) -> None:
    output, target, mask = case.inputs(seed)
    output.requires_grad_()
    with ForbidSync():
        for arguments in ((target, mask), (target,)):
            case.loss(output, *arguments).backward()
            case.normalizer(*arguments)


def assert_compiles(case: LossCase, seed: int, backend: str = "aot_eager") -> None:
    output, target, mask = case.inputs(seed)
    torch._dynamo.reset()
    compiled = torch.compile(case.loss, fullgraph=True, backend=backend)
    value, gradient = value_and_gradient(case.loss, output, target, mask)
    found, found_gradient = value_and_gradient(compiled, output, target, mask)
    torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-12, atol=1e-12)
    count = torch.compile(case.normalizer, fullgraph=True, backend=backend)(target, mask)
    assert torch.equal(count, case.normalizer(target, mask))
