"""Heads run one after another, so that only one of them is in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headwise.backward.stages import Stage, make_stages
from headwise.criterion import Breakdown, Criterion, Entry, Term
from headwise.criterion.criterion import check_criterion
from headwise.ratio import Ratio
from headwise.structure import mapped

Head = Callable[[Any], Any]


def staged(
    criterion: Criterion,
    features: Any,
    heads: Mapping[str, Head],
    targets: Any,
    *,
    denominators: Mapping[str, Tensor | Ratio] | None = None,
    factor: float | Tensor = 1.0,
) -> Breakdown:
    """Runs forward, terms and backward head by head, then one backward pass of the trunk: gradients are the plain ones.

    In place of running all heads and ``criterion(outputs, targets).total.backward()``::

        features = network.trunk(images)                     # a tensor, or tensors in lists, tuples and dicts
        breakdown = hw.backward.staged(
            criterion, features, {"box": network.box_head, "mask": network.mask_head}, targets
        )

    The features are cut off from the trunk. Heads whose outputs a term reads together make one stage; each stage is run
    forward, its terms are computed, its backward pass adds to the features' gradients and frees it. That is possible
    since a term's denominator is known from the targets. Peak memory is that of the trunk and of the largest stage, and
    no longer grows with the number of heads, at about the time of a plain step. Stages run in the reverse order of the
    heads, in which autograd adds gradients up. Light heads on a heavy trunk have nothing to gain.

    Head parameters and, through the features, trunk parameters have their gradients in ``.grad`` when it returns. Under
    DDP, call the parts of ``network.module`` and add up with `sum_gradients` afterwards; under FSDP2 shard trunk and
    heads apart and give ``factor=world_size``. With a GradScaler, ``factor=scaler.get_scale()``.

    Args:
        criterion: The criterion, without an open ledger: it books whole calls.
        features: What the heads read, with its graph.
        heads: What each head's function returns for the features, by its path in the outputs; "levels[*].logits" for a
            head that returns one tensor a level, "stacks[0]" for one that returns all outputs of a stack as a dict.
        targets: The nested targets.
        denominators: What divides each term, totaled over the step; by default this call's own.
        factor: What the total is multiplied by before the backward pass.

    Returns:
        Entries and total, without graph.

    Raises:
        ValueError: A term reads what no head makes, a head is read by no term, a ledger is open, or a name, shape or
            dtype does not fit.
    """
    check_criterion("staged", criterion)
    if criterion.recorder is not None:
        raise ValueError(
            "staged: a ledger is open, which books whole calls of the criterion. Close it, or use total.backward()"
        )
    _check_heads(heads)
    targets = {"target": targets} if isinstance(targets, Tensor) else targets  # as the criterion names a lone tensor
    boundary, held = _cut_off(features)
    if denominators is None:
        denominators = criterion.denominators(targets)
    found: dict[str, Entry] = {}
    for stage in reversed(make_stages(criterion, tuple(heads), targets)):
        found |= _run(stage, boundary, heads, targets, denominators, factor, criterion.unread)
    _run_trunk(held)
    entries = {name: found[name] for name in criterion.names}
    weighted = [entry.weighted for entry in entries.values()]
    return Breakdown(entries, sum(weighted[1:], weighted[0]))


def _check_heads(heads: Any) -> None:
    named = heads.items() if hasattr(heads, "items") else [("", heads)]
    for path, head in named:
        if not path or not callable(head):
            raise ValueError(
                "staged: heads are functions of the features, each by the path of its output, such as "
                f'{{"box": network.box_head}}; found {type(head).__name__}{path and f" at {path!r}"}'
            )


def _run(
    stage: Stage,
    boundary: Any,
    heads: Mapping[str, Head],
    targets: Any,
    denominators: Mapping[str, Tensor | Ratio],
    factor: float | Tensor,
    unread: Sequence[str],
) -> dict[str, Entry]:
    """One stage: forward, terms, backward. Its graph dies with this call."""
    outputs = stage.place({path: heads[path](boundary) for path in stage.heads})
    stage.criterion.unread = stage.unread(outputs, unread)
    own = {term.name: denominators[term.name] for term in stage.criterion.terms if isinstance(term, Term)}
    ratios = {name: each for name in stage.criterion.names if isinstance(each := denominators.get(name), Ratio)}
    breakdown = stage.criterion(outputs, stage.prune(targets), {**own, **ratios})
    if breakdown.total.requires_grad:
        with torch.autocast(breakdown.total.device.type, enabled=False):
            (breakdown.total * factor).backward()
    return {name: _detached(entry) for name, entry in breakdown.items()}


def _detached(entry: Entry) -> Entry:
    levels = None if entry.levels is None else entry.levels.detach()
    return Entry(
        entry.value.detach(), entry.weight, entry.weighted.detach(), entry.ratio.detach(), levels, entry.split_variant
    )


def _cut_off(features: Any) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
    """The same structure without the trunk's graph, and the pairs of a feature and its stand-in."""
    held: list[tuple[Tensor, Tensor]] = []

    def cut(feature: Tensor) -> Tensor:
        stand_in = feature.detach().requires_grad_(feature.requires_grad)
        held.append((feature, stand_in))
        return stand_in

    return mapped(features, cut, _refuse), held


def _refuse(leaf: Any) -> None:
    raise ValueError(
        f"staged: features are tensors in lists, tuples and dicts; found {type(leaf).__name__}. "
        "Hand over what the heads are called with"
    )


def _run_trunk(held: list[tuple[Tensor, Tensor]]) -> None:
    reached = [(feature, stand_in.grad) for feature, stand_in in held if stand_in.grad is not None]
    if reached:
        torch.autograd.backward([feature for feature, _ in reached], [grad for _, grad in reached])
