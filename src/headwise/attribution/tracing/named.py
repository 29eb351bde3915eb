"""Losses and outputs by name, whatever structure the training code returns them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from headwise.attribution.apart.returned.entries import (
    LossEntry,
    Weighted,
    entries_in,
    is_array_scalar,
    is_weighted,
    renamed,
)
from headwise.attribution.apart.returned.losses import read_losses
from headwise.structure import children, join

LossLike: TypeAlias = "Tensor | float | Weighted"
Losses: TypeAlias = "Mapping[str, LossLike] | Sequence[LossLike] | LossLike"


def named_losses(losses: Losses, names: Sequence[str] | None = None) -> tuple[LossEntry, ...]:
    """Give every loss a name, under the rules by which the audit and `wrap` read what was returned.

    Args:
        losses: A (nested) mapping, a tuple or list, a record, ``(total, losses)``, a `Breakdown`, or one loss. What is
            per sample is averaged; totals, metrics, texts and flags among the losses are left out.
        names: Names for a tuple or list; without them the positions "0", "1", ... are used.

    Returns:
        The losses as scalars, in their order.

    Raises:
        ValueError: If there is none, the number of names differs, or something is neither number nor tensor.
    """
    _refuse_strangers(losses, "")
    # Without gradients there is no graph to tell a total or a metric by.
    found = (
        read_losses(losses, names or ()).terms
        if torch.is_grad_enabled()
        else tuple(renamed(list(entries_in(losses)), losses, names or ()))
    )
    if len(found) == 1 and found[0].name == "loss" and children(losses) is None:
        found = (replace(found[0], name="0"),)
    if names is not None and (len(set(names)) != len(names) or not {entry.name for entry in found} <= set(names)):
        raise ValueError(f"names: {len(found)} losses need as many different names, found {list(names)}.")
    if not found:
        raise ValueError("losses: there is none. Pass a dict, a tuple or list, a Breakdown, or one scalar tensor.")
    return tuple(entry if entry.tensor is None else replace(entry, value=entry.tensor) for entry in found)


def _refuse_strangers(node: Any, path: str) -> None:
    if is_weighted(node) or (path and isinstance(node, bool | str)):
        return
    parts = children(node)
    for key, part in (parts or {}).items():
        _refuse_strangers(part, join(path, key))
    number = isinstance(node, Tensor | float | int | None) or is_array_scalar(node)
    if parts is None and (isinstance(node, bool | str) or not number):
        raise ValueError(f"loss {path or '0'!r}: expected a tensor or a number, found {type(node).__name__}.")


def weighted_values(losses: Losses, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The losses that are tensors with a graph, by name.

    Args:
        losses: As in `named_losses`.
        names: As in `named_losses`.

    Returns:
        Name to scalar tensor, without the losses that no gradient leaves.
    """
    return {loss.name: loss.scalar for loss in named_losses(losses, names) if loss.scalar is not None}


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters of a model that ask for a gradient, by name, tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
