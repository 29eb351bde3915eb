"""What every loss asks of its inputs: dtypes and shapes only, so nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise.losses.parts.fused import is_plain
from headwise.masks import ordered, spread_mask

# How far a target may leave [0, 1]: what was resized or smoothed may overshoot, what is no probability goes further.
_OVERSHOOT = 0.5


def working_dtype(output: Tensor) -> torch.dtype:
    """The dtype a loss computes and sums in: float64 for a float64 output, float32 for every other."""
    return torch.float64 if output.dtype == torch.float64 else torch.float32


def check_output(loss: str, output: Tensor, *constants: Tensor | None) -> None:
    """Asks for a floating output, and for targets and masks that want no gradient.

    Args:
        loss: Name of the loss, for the message.
        output: What the network returned.
        constants: Targets and masks.

    Raises:
        ValueError: If one is no tensor, ``output`` is not floating, or one of ``constants`` requires a gradient or is
            complex.
    """
    for each in (output, *constants):
        if each is not None and not isinstance(each, Tensor):
            raise ValueError(
                f"{loss}: outputs, targets and masks are tensors, found a {type(each).__name__}. Pass one of its "
                "tensors, or torch.as_tensor of it."
            )
    if not output.is_floating_point():
        raise ValueError(f"{loss}: the output must be floating, found {output.dtype}. Pass the network's raw output.")
    if any(constant is not None and constant.requires_grad for constant in constants):
        if torch.is_grad_enabled() and not output.requires_grad:
            raise ValueError(
                f"{loss}: the target requires a gradient, the output does not, as if one stood for the other. Pass the "
                "outputs first, then the targets; or target.detach(), if it is a target."
            )
        raise ValueError(
            f"{loss}: a target or mask requires a gradient, but a loss is differentiated by its output "
            "alone. Pass target.detach()."
        )
    if any(constant is not None and constant.is_complex() for constant in constants):
        raise ValueError(f"{loss}: targets and masks are real, found a complex one. Pass its parts, or its size.")


def check_labels(loss: str, output: Tensor, target: Tensor, mask: Tensor | None) -> None:
    """Asks for logits (N, C, ...), integer or bool labels (N, ...), and a mask of the labels' shape.

    Args:
        loss: Name of the loss, for the message.
        output: Logits.
        target: Labels.
        mask: Mask, or None.

    Raises:
        ValueError: If a dtype or a shape does not fit.
    """
    check_output(loss, output, target, mask)
    if target.is_floating_point() or target.is_complex():
        raise ValueError(
            f"{loss}: labels must be integer or bool, found {target.dtype}. Convert them with target.long(); "
            "for probabilities use binary_cross_entropy."
        )
    if output.ndim < 2 or output.shape[:1] + output.shape[2:] != target.shape:
        resize = "Resize the labels; where coarser levels read the same, give their strides (Levels(strides=))."
        drop = "Drop the labels' channel dimension, or slice the logits."
        batch = "Give both the dimension of a batch: unsqueeze(0)."
        remedy = batch if output.ndim < 2 else resize if target.ndim == output.ndim - 1 else drop
        raise ValueError(
            f"{loss}: logits of shape (N, C, ...) need labels of shape (N, ...), found logits "
            f"{tuple(output.shape)} and labels {tuple(target.shape)}. {remedy}"
        )
    if target.dtype == torch.bool and output.shape[1] != 2:
        raise ValueError(
            f"{loss}: bool labels tell 2 classes apart, found logits of {output.shape[1]} channels. "
            "Select the two channels, or pass integer labels."
        )
    if mask is not None and mask.shape != target.shape:
        raise ValueError(
            f"{loss}: the mask must have the labels' shape {tuple(target.shape)}, found {tuple(mask.shape)}."
            " Resize or expand the mask."
        )


def are_indices_seen(indices: Tensor) -> bool:
    """Whether torch says that an index is beyond its dimension, which on a device ends the whole process."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return indices.device.type == "cpu"


def no_such_class(labels: Tensor, num_classes: int) -> ValueError:
    """What is to be said of labels that count, of which some name no class; on the host."""
    least, most = (int(each) for each in labels.aminmax())
    found = most if most >= num_classes else least
    count = int((labels == found).sum())
    mask = " A mask of 0 and 255 is read by mask_cross_entropy." if (num_classes, found) == (2, 255) else ""
    return ValueError(
        f"labels are 0..{num_classes - 1}, one a channel of the logits, found {found} at {count} of {labels.numel()} "
        f"elements. Correct them, or leave them out with a mask or ignore_index={found}.{mask}"
    )


def check_elements(loss: str, output: Tensor, target: Tensor, mask: Tensor | None) -> None:
    """Asks for an output and a target of one shape and a mask that `spread_mask` can spread over it.

    Args:
        loss: Name of the loss, for the message.
        output: Values or logits.
        target: What they are compared with.
        mask: Mask, or None.

    Raises:
        ValueError: If a dtype or a shape does not fit.
    """
    check_output(loss, output, target, mask)
    if output.shape != target.shape:
        raise ValueError(
            f"{loss}: output and target must have one shape, found output {tuple(output.shape)} and target "
            f"{tuple(target.shape)}. Index or unsqueeze one of them; nothing is broadcast."
        )
    if mask is not None and mask.shape not in {output.shape, output.shape[:1] + output.shape[2:]}:
        raise ValueError(
            f"{loss}: the mask must have the output's shape {tuple(output.shape)}, or that shape without its "
            f"channels (dimension 1), found {tuple(mask.shape)}. Resize or expand the mask."
        )


def seen(flag: Tensor) -> bool:
    """Whether a flag of the host holds; asked of a kernel that looks at its indices, so that no value is waited for.

    Args:
        flag: 0-d bool, on the CPU, neither traced nor batched.

    Returns:
        Whether it does.
    """
    try:
        flag.new_empty(1).gather(0, flag.long().reshape(1))
    except RuntimeError:
        return True
    return False


def check_probabilities(loss: str, output: Tensor, target: Tensor, mask: Tensor | None) -> None:
    """Asks for targets that are labels 0 and 1 or probabilities, where they count; on the host, where they can be seen.

    Args:
        loss: Name of the loss, for the message.
        output: Logits, of the target's shape.
        target: Targets.
        mask: Mask as of `check_elements`, or None.

    Raises:
        ValueError: If one is further than half beyond 0 or 1.
    """
    if target.dtype == torch.bool or not (target.is_cpu and is_plain(target)) or not target.numel():
        return
    keep, values = spread_mask(output, mask), ordered(target)
    least, most = (values if keep is None else torch.where(keep, values, 0)).aminmax()
    if seen((least < -_OVERSHOOT) | (most > 1 + _OVERSHOOT)):
        raise ValueError(
            f"{loss}: targets are labels 0 and 1 or probabilities, found values from {float(least):g} to "
            f"{float(most):g}. Give 0 and 255 as target > 0, and leave out what does not count with a mask."
        )


def as_probability(target: Tensor, dtype: torch.dtype) -> Tensor:
    """A target as probabilities: an integer that is neither 0 nor 1 is NaN, where it could not be refused.

    Args:
        target: Labels or probabilities.
        dtype: To compute in.

    Returns:
        The same in that dtype.
    """
    found = target.to(dtype)
    if target.dtype == torch.bool or target.is_floating_point():
        return found
    return torch.where((target == 0) | (target == 1), found, torch.nan)


def select(keep: Tensor | None, values: Tensor, other: float) -> Tensor:
    """``values`` where ``keep``, else the constant ``other``; a NaN outside ``keep`` vanishes here."""
    return values if keep is None else torch.where(keep, values, other)
