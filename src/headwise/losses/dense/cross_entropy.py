"""Cross entropy over classes, which stand second, or last as in language models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.parts.checks import (
    are_indices_seen,
    check_labels,
    check_output,
    no_such_class,
    select,
    working_dtype,
)
from headwise.losses.parts.fused import fused_sum
from headwise.masks import as_mask, other_than

# log1p(exp(x)) equals x to float64 precision from here on, and exp cannot overflow before.
_SOFTPLUS_THRESHOLD = 50.0


@declared(count=normalizers.labeled, shared=("ignore_index",), closed_form=True)
def cross_entropy(
    output: Tensor, target: Tensor, mask: Tensor | None = None, *, ignore_index: int | None = None
) -> Tensor:
    """Sum of cross entropies of logits against labels.

    ``sum over i of mask_i * (logsumexp_c output_ic - output_i,target_i)``

    Args:
        output: Logits, (N, C, ...), any floating dtype.
        target: Labels in 0..C-1, (N, ...), integer; or bool with C = 2.
        mask: What counts, (N, ...), any dtype (positive counts); None counts everything.
        ignore_index: Label that does not count; `normalizers.labeled` leaves it out as well.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits); NaN where a label that counts names no class and cannot be
        seen, on a GPU or compiled.

    Raises:
        ValueError: If a dtype or a shape does not fit, or a label that counts names no class.
    """
    check_labels("cross_entropy", output, target, mask)
    return fused_sum(cross_entropy_value, cross_entropy_gradient, output, target, mask, ignore_index=ignore_index)


@declared(count=normalizers.labeled, shared=("ignore_index",), closed_form=True)
def token_cross_entropy(
    output: Tensor, target: Tensor, mask: Tensor | None = None, *, ignore_index: int | None = -100
) -> Tensor:
    """Sum of cross entropies of a language model's logits against the tokens, as `cross_entropy` with the classes last.

    ``sum over i of mask_i * (logsumexp_v output_iv - output_i,target_i)``. The labels are read as they stand: if a
    position is to tell the next token, shift the labels or the logits first.

    Args:
        output: Logits, (N, L, V) or (N, V), any floating dtype.
        target: Tokens in 0..V-1, (N, L) or (N,), integer.
        mask: What counts, of the tokens' shape, any dtype (positive counts); None counts everything.
        ignore_index: Token that does not count; `normalizers.labeled` leaves it out as well. None: all count.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits); NaN where a token that counts names no class and cannot be
        seen, on a GPU or compiled.

    Raises:
        ValueError: If a dtype or a shape does not fit, or a token that counts names no class.
    """
    check_output("token_cross_entropy", output, target, mask)
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(f"token_cross_entropy: tokens are integers, found {target.dtype}. Pass their numbers.")
    if (
        output.ndim not in {2, 3}
        or output.shape[:-1] != target.shape
        or (mask is not None and mask.shape != target.shape)
    ):
        found = None if mask is None else tuple(mask.shape)
        raise ValueError(
            "token_cross_entropy: logits (N, L, V) need tokens and mask (N, L), found logits "
            f"{tuple(output.shape)}, tokens {tuple(target.shape)}, mask {found}. For classes in dimension 1 use "
            "cross_entropy."
        )
    return fused_sum(_token_value, _token_gradient, output, target, mask, ignore_index=ignore_index)


def _token_value(output: Tensor, target: Tensor, mask: Tensor | None, *, ignore_index: int | None) -> Tensor:
    return cross_entropy_value(*_as_rows(output, target, mask), ignore_index=ignore_index)


def _token_gradient(output: Tensor, target: Tensor, mask: Tensor | None, *, ignore_index: int | None) -> Tensor:
    rows = cross_entropy_gradient(*_as_rows(output, target, mask), ignore_index=ignore_index)
    return rows.reshape(output.shape)


def _as_rows(output: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """One row of logits a token."""
    rows = output.reshape(target.numel(), output.shape[-1])
    return rows, target.reshape(-1), None if mask is None else mask.reshape(-1)


@declared(count=normalizers.count, closed_form=True)
def mask_cross_entropy(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of cross entropies of two logits against a mask: the second is of where it holds.

    As `cross_entropy` of two classes, with the target read as all masks are: 255 holds, where a label of 255 would be
    no class.

    Args:
        output: Logits, (N, 2, ...), any floating dtype.
        target: Mask, (N, ...), any dtype (positive holds).
        mask: What counts, (N, ...), any dtype (positive counts); None counts everything.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits).

    Raises:
        ValueError: If a dtype or a shape does not fit.
    """
    return cross_entropy(output, as_mask(target), mask)


def cross_entropy_value(
    output: Tensor, target: Tensor, mask: Tensor | None, *, ignore_index: int | None = None
) -> Tensor:
    """The sum of `cross_entropy`."""
    keep = _keep(target, mask, ignore_index)
    if target.dtype == torch.bool:
        return margin_losses(two_class_margin(output, target, keep)).sum()
    _, losses, _ = class_losses(output, target, keep)
    return select(keep, losses, 0.0).sum()


def cross_entropy_gradient(
    output: Tensor, target: Tensor, mask: Tensor | None, *, ignore_index: int | None = None
) -> Tensor:
    """Gradient of the sum of `cross_entropy` with respect to the logits."""
    keep = _keep(target, mask, ignore_index)
    if target.dtype == torch.bool:
        return two_class_gradient(two_class_margin(output, target, keep), target)
    log_probability, _, labels = class_losses(output, target, keep)
    return class_gradient(log_probability, labels, keep)


def _keep(target: Tensor, mask: Tensor | None, ignore_index: int | None) -> Tensor | None:
    keep = None if mask is None else as_mask(mask)
    if ignore_index is None:
        return keep
    labeled = other_than(target, ignore_index)
    return labeled if keep is None else keep & labeled


def two_class_margin(output: Tensor, is_second: Tensor, keep: Tensor | None) -> Tensor:
    """Wrong logit minus right logit, (N, ...); -inf outside ``keep``, where loss and slope are 0."""
    logits = output.to(working_dtype(output))
    first, second = logits.unbind(1)
    return select(keep, (second - first) * _sign(is_second, logits.dtype), -torch.inf)


def margin_losses(margin: Tensor) -> Tensor:
    """Cross entropy of two classes, ``log(1 + exp(margin))``."""
    if margin.is_cuda or not torch.compiler.is_compiling():
        return F.softplus(margin, threshold=_SOFTPLUS_THRESHOLD)
    # Compiled for a CPU, log1p costs four times as much as log; Kahan's quotient makes up for the rounding of 1 + x.
    small = torch.exp(-margin.abs())
    one_plus = 1.0 + small
    log1p = torch.where(one_plus == 1.0, small, torch.log(one_plus) * (small / (one_plus - 1.0)))
    return margin.clamp(min=0.0) + log1p


def two_class_gradient(margin: Tensor, is_second: Tensor) -> Tensor:
    """Gradient of the sum of the `margin_losses` with respect to the two logits, (N, 2, ...)."""
    second = torch.sigmoid(margin) * _sign(is_second, margin.dtype)
    return channel_pair(-second, second)


def _sign(is_second: Tensor, dtype: torch.dtype) -> Tensor:
    """-1 for the second class, 1 for the first: a factor is faster than a choice of two tensors."""
    return torch.where(is_second, -1.0, 1.0).to(dtype)


def channel_pair(first: Tensor, second: Tensor) -> Tensor:
    """Two maps (N, ...) as two channels (N, 2, ...).

    Compiled, a choice by the channel's number fuses into whatever reads it; a stack would be written out first.
    """
    if not torch.compiler.is_compiling():
        return torch.stack((first, second), dim=1)
    number = torch.arange(2, device=first.device).view(1, 2, *[1] * (first.ndim - 1))
    return torch.where(number == 0, first.unsqueeze(1), second.unsqueeze(1))


def class_losses(output: Tensor, target: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (N, C, ...), cross entropies (N, ...), labels (N, 1, ...); finite outside ``keep``."""
    logits = output.to(working_dtype(output))
    labels = target.long()
    if keep is not None:
        logits = select(keep.unsqueeze(1), logits, 0.0)
        labels = torch.where(keep, labels, 0)
    log_probability = torch.log_softmax(logits, dim=1)
    picked, labels = _picked(log_probability, labels.unsqueeze(1))
    return log_probability, -picked.squeeze(1), labels


def _picked(log_probability: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What stands at the labels, and the labels.

    One that names no class is refused on the host, where torch sees it. On a device torch would end the whole process
    instead, so that there, and where the code cannot know where it will run, its loss is NaN.
    """
    num_classes = log_probability.shape[1]
    if not are_indices_seen(labels):
        named = labels.clamp(0, num_classes - 1)
        return torch.where(named == labels, log_probability.gather(1, named), torch.nan), named
    try:
        return log_probability.gather(1, labels), labels
    except RuntimeError:
        raise no_such_class(labels, num_classes) from None


def class_gradient(log_probability: Tensor, labels: Tensor, keep: Tensor | None) -> Tensor:
    """Gradient of the sum of the kept `class_losses` with respect to the logits, (N, C, ...)."""
    gradient = log_probability.exp()
    if torch.compiler.is_compiling():
        # A comparison fuses with what is around it; a scatter would not.
        classes = torch.arange(gradient.shape[1], device=labels.device).view(1, -1, *[1] * (gradient.ndim - 2))
        gradient = gradient - (labels == classes).to(gradient.dtype)
    else:
        gradient = gradient.scatter_add(1, labels, gradient.new_full((), -1.0).expand(labels.shape))
    return select(None if keep is None else keep.unsqueeze(1), gradient, 0.0)
