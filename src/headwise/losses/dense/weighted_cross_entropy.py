"""Cross entropy with one weight an element, such as U-Net's weight map."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.dense.cross_entropy import class_gradient, class_losses
from headwise.losses.parts.checks import check_labels, working_dtype
from headwise.losses.parts.fused import fused_sum
from headwise.masks import as_mask, other_than


@declared(count=normalizers.weight_sum, shared=("ignore_index",), closed_form=True)
def weighted_cross_entropy(
    output: Tensor,
    label: Tensor,
    weight: Tensor,
    mask: Tensor | None = None,
    *,
    ignore_index: int | None = None,
) -> Tensor:
    """Sum of weighted cross entropies of logits against labels.

    ``sum over i of mask_i * weight_i * (logsumexp_c output_ic - output_i,label_i)``. Nothing is broadcast: element i
    meets label i and weight i, whether or not they have a channel dimension of 1. An element of weight 0 does not
    count, whatever its loss.

    Args:
        output: Logits, (N, C) or (N, C, H, W, ...), any floating dtype, any number of classes.
        label: Labels in 0..C-1, (N, ...) or (N, 1, ...), integer; or bool with C = 2.
        weight: Weights, (N, ...) or (N, 1, ...), any real dtype.
        mask: What counts, (N, ...) or (N, 1, ...), any dtype (positive counts); None counts everything.
        ignore_index: Label that does not count.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits). Divide by `normalizers.count` (or `labeled`) for the mean
        over elements, by `normalizers.weight_sum` for the weighted mean, by `normalizers.one` for the paper's sum.

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015, equation 1.

    Differs:
        The element-wise version in circulation broadcasts weights of (N, 1) to N x N and selects several
        probabilities an element for labels of (N, 1).
    """
    name = "weighted_cross_entropy"
    label, weight = _one_per_element(name, output, "label", label), _one_per_element(name, output, "weight", weight)
    mask = None if mask is None else _one_per_element(name, output, "mask", mask)
    check_labels(name, output, label, mask)
    if weight.is_complex() or weight.requires_grad:
        raise ValueError(
            f"{name}: weights are real numbers without a gradient, found {weight.dtype} with "
            f"requires_grad={weight.requires_grad}. Pass weight.detach()."
        )
    return fused_sum(_value, _gradient, output, label, weight, mask, ignore_index=ignore_index)


def _one_per_element(loss: str, output: Tensor, role: str, tensor: Tensor) -> Tensor:
    """The tensor as (N, ...), where it is (N, ...) or (N, 1, ...)."""
    shape = output.shape[:1] + output.shape[2:]
    if tensor.shape == shape:
        return tensor
    if tensor.shape != (*output.shape[:1], 1, *output.shape[2:]):
        raise ValueError(
            f"{loss}: logits of shape {tuple(output.shape)} need a {role} of shape {tuple(shape)}, or that with a "
            f"dimension 1 of 1, found {tuple(tensor.shape)}. Give one {role} an element; nothing is broadcast."
        )
    return tensor.squeeze(1)


def _value(output: Tensor, label: Tensor, weight: Tensor, mask: Tensor | None, *, ignore_index: int | None) -> Tensor:
    keep = _keep(label, weight, mask, ignore_index)
    _, losses, _ = class_losses(output, label, keep)
    return (losses * _weights(output, weight, keep)).sum()


def _gradient(
    output: Tensor, label: Tensor, weight: Tensor, mask: Tensor | None, *, ignore_index: int | None
) -> Tensor:
    keep = _keep(label, weight, mask, ignore_index)
    log_probability, _, labels = class_losses(output, label, keep)
    gradient = class_gradient(log_probability, labels, keep)
    return gradient * _weights(output, weight, keep).unsqueeze(1)


def _keep(label: Tensor, weight: Tensor, mask: Tensor | None, ignore_index: int | None) -> Tensor:
    keep = weight != 0
    if mask is not None:
        keep = keep & as_mask(mask)
    return keep if ignore_index is None else keep & other_than(label, ignore_index)


def _weights(output: Tensor, weight: Tensor, keep: Tensor) -> Tensor:
    return torch.where(keep, weight.to(working_dtype(output)), 0.0)
