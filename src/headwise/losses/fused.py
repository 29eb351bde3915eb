"""A sum with a closed-form gradient as one differentiable operation that keeps nothing but its inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

# `value(output, *others, **hyper)`: the 0-d sum, then what its gradient reuses (a selection, say), if anything.
Value = Callable[..., tuple[Tensor, ...]]
# `gradient(output, *others, *reused, **hyper)`: of the sum with respect to `output`, in its shape and dtype.
Gradient = Callable[..., Tensor]


def fused_sum(value: Value, gradient: Gradient, output: Tensor, *others: Tensor | None, **hyper: Any) -> Tensor:
    """Joins the closed forms of a sum and of its gradient to one differentiable operation.

    Autograd would keep every intermediate result; this keeps references to the inputs and what ``value`` hands on, and
    computes the gradient in one pass when it is asked for. ``gradient`` is made of differentiable operations, so that a
    backward pass can itself be differentiated; forward-mode derivatives and ``torch.func`` transforms work too.

    Args:
        value: The sum.
        gradient: Its gradient.
        output: The only differentiable input.
        others: Targets and masks; None is passed through.
        hyper: Keyword arguments of both.

    Returns:
        The sum, 0-d.
    """
    value, gradient = partial(value, **hyper), partial(gradient, **hyper)
    if not (torch.is_grad_enabled() and output.requires_grad):
        return value(output, *others)[0]
    # Dynamo traces no Function that defines `jvp`, and compiled code has no use for it.
    function = _FusedSum if torch.compiler.is_compiling() else _FusedSumWithTangent
    total: Tensor = function.apply(value, gradient, output, *others)[0]
    return total


class _FusedSum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Value, gradient: Gradient, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        return value(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, ctx.gradient, *tensors = inputs
        _, *reused = output
        ctx.num_others = len(tensors) - 1
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*reused)
        ctx.save_for_backward(*tensors, *reused)
        ctx.save_for_forward(*tensors, *reused)

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        none_for_others = (None,) * ctx.num_others
        if grad_value is None:
            return None, None, None, *none_for_others
        return None, None, ctx.gradient(*ctx.saved_tensors) * grad_value, *none_for_others


class _FusedSumWithTangent(_FusedSum):
    @staticmethod
    def jvp(ctx: Any, _value: None, _gradient: None, tangent: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        reused = ctx.saved_tensors[1 + ctx.num_others :]
        return (ctx.gradient(*ctx.saved_tensors) * tangent).sum(), *(None for _ in reused)
