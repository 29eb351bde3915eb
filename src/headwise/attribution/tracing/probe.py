"""Find out by a gradient what the graph alone does not tell: the support of the gradient at an output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from headwise.attribution.tracing.channels import Channels, channel_dim_of

Probe = Literal["value", "nan"]


def probed_channels(loss: Tensor, outputs: Mapping[str, Tensor], kind: Probe, channel_dim: int) -> dict[str, Channels]:
    """The channels with a gradient, by one backward pass through the loss (never through the network).

    With "nan" the pass starts from NaN: since NaN * 0 is NaN, what a mask of zeros silences still counts, while what
    was sliced away does not.

    Args:
        loss: A scalar with a graph.
        outputs: The outputs, by path.
        kind: "value" or "nan".
        channel_dim: Which dimension of an output holds the channels.

    Returns:
        The channels of every output that the loss reaches.
    """
    paths = [path for path, tensor in outputs.items() if tensor.requires_grad]
    grads = support_gradients(loss, [outputs[path] for path in paths], kind)
    return {
        path: _support(grad, kind, channel_dim) for path, grad in zip(paths, grads, strict=True) if grad is not None
    }


def support_gradients(loss: Tensor, tensors: Sequence[Tensor], kind: Probe) -> tuple[Tensor | None, ...]:
    """The gradients of a loss whose support is asked for; the graph stays usable.

    Args:
        loss: A scalar with a graph.
        tensors: With respect to what.
        kind: "value" or "nan".

    Returns:
        One gradient per tensor, None where there is no path.
    """
    if not tensors:
        return ()
    seed = torch.full_like(loss, float("nan") if kind == "nan" else 1.0)
    with torch.autograd.set_detect_anomaly(False):
        return torch.autograd.grad(loss, tensors, seed, retain_graph=True, allow_unused=True)


def _support(grad: Tensor, kind: Probe, channel_dim: int) -> Channels:
    touched = grad.isnan() if kind == "nan" else grad != 0
    fraction = float(touched.float().mean()) if touched.numel() else 0.0
    if grad.ndim == 0:
        return Channels((0,) if fraction else (), 1, True, kind, fraction)
    dim = channel_dim_of(grad.shape, channel_dim)
    rows = touched.movedim(dim, 0).reshape(grad.shape[dim], -1).any(1)
    indices = tuple(int(index) for index in rows.nonzero().flatten())
    return Channels(indices, grad.shape[dim], True, kind, fraction)
