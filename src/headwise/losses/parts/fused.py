"""A sum with a closed-form gradient as one differentiable operation that keeps nothing but its inputs.

On a CPU, fresh memory and caches cost more than arithmetic: eager kernels run image by image, so that what they
allocate is small and used again, and a gradient may be written straight to where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from headwise.graph import is_batched

# `value(output, *others, **hyper)`: the 0-d sum over all images.
Value = Callable[..., Tensor]
# `gradient(output, *others, **hyper)`: of that sum with respect to `output`, in its shape and the dtype of the sum:
# weight, count and loss scale are multiplied in before anything is rounded to half precision.
Gradient = Callable[..., Tensor]
# `write(into, add)`: writes a gradient into a tensor of the output's shape, or adds it to what is there.
Write = Callable[[Tensor, bool], None]

# Elements of the output that each thread works on at a time: their temporaries stay in its core's cache.
_PIECE = 1 << 17


class TakesGradients(Protocol):
    """Takes gradients as functions that write them; an output that has one carries it as `headwise_sink`."""

    def offer(self, write: Write) -> bool:
        """Takes the gradient over, to be called in this same backward pass; or refuses."""
        ...


class Patch(NamedTuple):
    """A few elements of a map (N, C, H, W) whose target is another than the map of targets says.

    Args:
        place: (N, C, K) int64, in the flattened H * W.
        before: (N, C, K), the target that the map has there.
        after: (N, C, K), the target that holds.
        keep: (N, C, K) bool, which of these are meant; none twice.
    """

    place: Tensor
    before: Tensor
    after: Tensor
    keep: Tensor

    def difference(self, function: Callable[..., Tensor], output: Tensor) -> Tensor:
        """What the patch adds to a sum, or to its gradient at the elements."""
        values = output.flatten(2).gather(2, self.place)
        return function(values, self.after, self.keep) - function(values, self.before, self.keep)

    def add_to(self, into: Tensor, values: Tensor) -> Tensor:
        """A map with (N, C, K) values added at the elements."""
        flat = into.flatten(2).scatter_add(2, self.place, values.to(into.dtype))
        return flat.reshape(into.shape)

    def add_in_place(self, into: Tensor, values: Tensor) -> None:
        """Add (N, C, K) values at the elements of a map of any strides."""
        num_images, num_channels, _ = self.place.shape
        images = torch.arange(num_images, device=into.device)[:, None, None]
        channels = torch.arange(num_channels, device=into.device)[:, None]
        rows, columns = self.place.div(into.shape[-1], rounding_mode="floor"), self.place % into.shape[-1]
        where = images, channels, rows, columns
        into.index_put_(where, values.to(into.dtype), accumulate=True)


def fused_sum(
    value: Value,
    gradient: Gradient,
    output: Tensor,
    *others: Tensor | None,
    patch: Patch | None = None,
    **hyper: Any,
) -> Tensor:
    """Joins the closed forms of a sum and of its gradient to one differentiable operation.

    Autograd would keep every intermediate result; this keeps references to the inputs, and computes the gradient when
    it is asked for. Both functions are made of differentiable, out-of-place operations, so that a backward pass can
    itself be differentiated (``create_graph=True``); forward-mode derivatives and ``torch.func`` transforms work too.

    Args:
        value: The sum; over a part of the images (dimension 0), the sum of that part.
        gradient: Its gradient; of a part of the images, that part of it.
        output: The only differentiable input. Its attribute `headwise_sink`, if there is one, is offered the gradient.
        others: Targets and masks, with the images of the output; None is passed through.
        patch: Where the target is another; then `others` are target and mask, and none of these elements is masked.
        hyper: Keyword arguments of both.

    Returns:
        The sum, 0-d.
    """
    form = _Form(partial(value, **hyper), partial(gradient, **hyper), patch is not None)
    tensors = (output, *others, *(patch or ()))
    if not (torch.is_grad_enabled() and output.requires_grad):
        return form.value(*tensors)
    node: Any = _FusedSum
    if not torch.compiler.is_compiling():
        # Dynamo traces no Function that defines `jvp`, and compiled code has no use for it.
        node = _TransformedSum if torch._C._are_functorch_transforms_active() else _EagerSum
    total: Tensor = node.apply(form, getattr(output, "headwise_sink", None), *tensors)
    return total


class _Form(NamedTuple):
    """The closed forms over output, others and, if `patched`, the four tensors of a patch."""

    of_value: Value
    of_gradient: Gradient
    patched: bool

    def value(self, *tensors: Tensor | None) -> Tensor:
        inputs, patch = self._split(tensors)
        first, *rest = (self.of_value(*piece) for piece in pieces(*inputs))
        for each in rest:
            first = first + each
        return first if patch is None else first + patch.difference(self.of_value, inputs[0])

    def gradient(self, scale: Tensor | float, *tensors: Tensor | None) -> Tensor:
        """The gradient times `scale`, by out-of-place operations, which may be traced and differentiated."""
        inputs, patch = self._split(tensors)
        # Scaled before a patch is added: a compiler makes one kernel of what stands before a scatter.
        whole = self.of_gradient(*inputs) * scale
        return whole if patch is None else patch.add_to(whole, patch.difference(self.of_gradient, inputs[0]) * scale)

    def write(self, scale: Tensor, tensors: tuple[Tensor | None, ...], into: Tensor, add: bool) -> None:
        """Write the gradient times `scale`, or add it, piece by piece."""
        inputs, patch = self._split(tensors)
        for part, *piece in pieces(into, *inputs):
            if add:
                # Rounded before it is added, as a gradient that comes as a tensor of its own is.
                part.add_((self.of_gradient(*piece) * scale).to(part.dtype))
            else:
                torch.mul(self.of_gradient(*piece), scale, out=part)
        if patch is not None:
            patch.add_in_place(into, patch.difference(self.of_gradient, inputs[0]) * scale)

    def _split(self, tensors: tuple[Any, ...]) -> tuple[tuple[Any, ...], Patch | None]:
        return (tensors[:-4], Patch(*tensors[-4:])) if self.patched else (tensors, None)


class _FusedSum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(form: _Form, sink: TakesGradients | None, *tensors: Tensor | None) -> Tensor:
        return form.value(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _keep(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, grad_value)


class _TransformedSum(_FusedSum):
    @staticmethod
    def jvp(ctx: Any, _form: None, _sink: None, tangent: Tensor, *_others: None) -> Tensor:
        return _directional(ctx, tangent)


class _EagerSum(torch.autograd.Function):
    """The same without `setup_context`, for which torch inspects the signature of `forward` at every call."""

    @staticmethod
    def forward(ctx: Any, form: _Form, sink: TakesGradients | None, *tensors: Tensor | None) -> Tensor:
        _keep(ctx, form, sink, *tensors)
        return form.value(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, grad_value)

    @staticmethod
    def jvp(ctx: Any, _form: None, _sink: None, tangent: Tensor, *_others: None) -> Tensor:
        return _directional(ctx, tangent)


def _keep(ctx: Any, form: _Form, sink: TakesGradients | None, *tensors: Tensor | None) -> None:
    ctx.form, ctx.sink, ctx.num_others = form, sink, len(tensors) - 1
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _gradients(ctx: Any, grad_value: Tensor | None) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    nothing: tuple[None, ...] = (None,) * ctx.num_others
    if grad_value is None:
        return None, None, None, *nothing
    output, *others = tensors
    if torch.is_grad_enabled() or not is_plain(grad_value, output):
        if torch.compiler.is_compiling() and output.is_cuda:
            tensors = (_in_backward(output, grad_value), *others)
        return None, None, ctx.form.gradient(grad_value, *tensors).to(output.dtype), *nothing
    # Detached, so that a sink that is never emptied holds no graph.
    write = partial(ctx.form.write, grad_value, (output.detach(), *others))
    if ctx.sink is not None and ctx.sink.offer(write):
        return None, None, None, *nothing
    into = torch.empty_like(output)
    write(into, False)
    return None, None, into, *nothing


def _in_backward(output: Tensor, grad_value: Tensor) -> Tensor:
    """The output plus a zero that depends on the incoming gradient.

    A compiler would compute the closed form in the forward pass, keep it, and read it again only to scale it: a pass
    over memory more than computing it in one kernel from the inputs.
    """
    return output + torch.isnan(grad_value).to(output.dtype) * 0.0


def _directional(ctx: Any, tangent: Tensor) -> Tensor:
    product: Tensor = (ctx.form.gradient(1.0, *ctx.saved_tensors) * tangent).sum()
    return product


def is_native(output: Tensor, mask: Tensor | None) -> bool:
    """Whether torch's own kernel does as well as a closed form: nothing to select, temporaries that stay in a cache.

    Args:
        output: The output.
        mask: The mask.

    Returns:
        Whether it does: fewer launches then count for more than memory.
    """
    small = output.numel() <= _PIECE or output.is_cuda
    return mask is None and small and not torch.compiler.is_compiling()


def is_plain(*tensors: Tensor) -> bool:
    """Whether tensors are what they seem, neither traced nor batched nor of another class: writable in place."""
    if torch.compiler.is_compiling() or is_batched(*tensors):
        return False
    return all(type(tensor) is Tensor for tensor in tensors)


def pieces(*tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Splits tensors alike, along their images, into pieces whose temporaries stay in a core's cache.

    Args:
        tensors: The output first, then what belongs to it, with the same dimension 0; None is passed through.

    Yields:
        The tensors' pieces; all at once on other devices, under a compiler and in ``torch.func`` transforms.
    """
    output = tensors[0]
    assert output is not None
    whole = not output.is_cpu or not is_plain(output)
    num_pieces = 1 if whole else -(-output.numel() // (_PIECE * torch.get_num_threads()))
    if num_pieces <= 1:
        yield tensors
        return
    num_images = len(output)
    for start, stop in _ranges(num_images, num_pieces):
        images = tuple(None if tensor is None else tensor[start:stop] for tensor in tensors)
        if min(each.dim() for each in tensors if each is not None) < 3:
            yield images
            continue
        # The last but one dimension holds rows in outputs, targets and masks alike.
        for top, bottom in _ranges(output.shape[-2], -(-num_pieces // num_images)):
            yield tuple(None if each is None else each[..., top:bottom, :] for each in images)


def _ranges(size: int, number: int) -> Iterator[tuple[int, int]]:
    step = -(-size // number)
    for start in range(0, size, step):
        yield start, min(start + step, size)
