"""Value and gradient of a sum in one pass over the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# The closed form of a loss, `kernel(output, *others, with_gradient=...)`: its 0-d sum and, if asked for, the
# gradient of that sum with respect to `output`, in the shape and dtype of `output`.
Kernel = Callable[..., tuple[Tensor, Tensor | None]]


def fused_sum(kernel: Kernel, output: Tensor, *others: Tensor | None) -> Tensor:
    """Runs a closed-form kernel as one differentiable operation.

    Between the passes only the gradient is kept, beside references to the inputs. A backward pass that is
    itself differentiated (``create_graph=True``) runs the kernel once more with autograd on, so a kernel is
    made of differentiable, out-of-place operations. Forward-mode derivatives and ``torch.func`` transforms
    work too.

    Args:
        kernel: The closed form; called with ``with_gradient=False`` where nobody asks for a gradient.
        output: The only differentiable input.
        others: Targets and masks; None is passed through.

    Returns:
        The kernel's value, 0-d.
    """
    if not (torch.is_grad_enabled() and output.requires_grad):
        return kernel(output, *others, with_gradient=False)[0]
    # Dynamo traces no Function that defines `jvp`, and compiled code has no use for it.
    function = _FusedSum if torch.compiler.is_compiling() else _FusedSumWithTangent
    value: Tensor = function.apply(kernel, output, *others)[0]
    return value


class _FusedSum(torch.autograd.Function):
    """``(value, gradient) = kernel(...)``; the second is an output only so that it can be saved."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kernel: Kernel, output: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return kernel(output, *others, with_gradient=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        kernel, *tensors = inputs
        _, gradient = output
        ctx.kernel = kernel
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(gradient)
        ctx.save_for_backward(gradient, *tensors)
        ctx.save_for_forward(gradient)

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient, *tensors = ctx.saved_tensors
        none_for_others = (None,) * (len(tensors) - 1)
        if grad_value is None:
            return None, None, *none_for_others
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            gradient = ctx.kernel(*tensors, with_gradient=True)[1]
        return None, gradient * grad_value, *none_for_others


class _FusedSumWithTangent(_FusedSum):
    """The same with a forward-mode derivative."""

    @staticmethod
    def jvp(ctx: Any, _kernel: None, tangent: Tensor, *_others: Tensor | None) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * tangent).sum(), None
