"""The same gradient at any scale: sums totaled over the micro-batches and ranks of one optimizer step.

A term's value is ``sum / count``. With the count totaled over the step *before* the backward passes, the gradients of
all micro-batches and ranks add up to that of the whole batch. Loops that average instead of adding (DDP and FSDP over
ranks; Lightning, Accelerate and many a loop of one's own over micro-batches) are undone in one place,
`undo_averaging`::

    denominators = hw.pool_denominators(criterion, [targets for _, targets in micro_batches])
    for images, targets in micro_batches:
        breakdown = criterion(network(images), targets, denominators)
        hw.undo_averaging(breakdown.total).backward()
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from headwise.criterion.binding.binding import bind_targets
from headwise.criterion.criterion import Criterion, check_criterion
from headwise.criterion.terms.term import RatioTerm, Term
from headwise.ratio import Ratio
from headwise.structure import describe
from headwise.whole import check_whole


def pool_denominators(criterion: Criterion, micro_batches: Iterable[Any], group: Any = None) -> dict[str, Tensor]:
    """What divides each term in one optimizer step, from the targets alone: no forward pass is needed.

    Divided by these, the sums of all micro-batches and ranks add up to the gradient of the whole batch. A loop that
    averages over ranks or micro-batches is undone by `undo_averaging`. Ranks may have different numbers of
    micro-batches; all must call it, once a step (one all-reduce of a few numbers, no host sync). A constant
    (`normalizers.one`, a number) is not totaled.

    Args:
        criterion: The criterion.
        micro_batches: The targets of each of this rank's micro-batches.
        group: A process group; None means the default one if `torch.distributed` is initialized.

    Returns:
        Per term the total, to be handed to ``criterion(outputs, targets, denominators)``.

    Raises:
        ValueError: There is no list of micro-batches, or the levels of a term vary between them.
    """
    check_criterion("pool_denominators", criterion)
    if isinstance(micro_batches, Mapping | Tensor) or not isinstance(micro_batches, Iterable):
        raise ValueError(
            f"pool_denominators: a list with the targets of each micro-batch; found {describe(micro_batches)}. Give "
            "[targets] for a step of one"
        )
    totals: dict[str, Tensor] = {}
    levels: dict[str, list[str]] = {}
    constant = {term.name for term in criterion.terms if isinstance(term, Term) and term.is_constant}
    empty = True
    for targets in micro_batches:
        empty = False
        for name, count in criterion.denominators(targets).items():
            own = _levels_of(criterion, name, targets)
            if levels.setdefault(name, own) != own:
                raise ValueError(
                    f"term {name!r}: its targets have {len(own)} levels ({', '.join(own)}) in one micro-batch, "
                    f"{len(levels[name])} ({', '.join(levels[name])}) in another; counts are added level by level. "
                    "Give all the same levels"
                )
            totals[name] = totals[name] + count if name in totals and name not in constant else count
    if empty:
        raise ValueError("pool_denominators needs the targets of at least one micro-batch")
    varying = {name: count for name, count in totals.items() if name not in constant}
    return totals | _all_reduced(varying, group)


def _levels_of(criterion: Criterion, name: str, targets: Any) -> list[str]:
    """The levels of a term's targets, by their keys and indices."""
    term = criterion.terms[criterion.names.index(name)]
    if not term.num_wildcards:
        return []
    nested = {"target": targets} if isinstance(targets, Tensor) else targets
    return [".".join(map(str, level)) for level in bind_targets(term, nested)[0]]


def pool_ratios(criterion: Criterion, micro_batches: Iterable[tuple[Any, Any]], group: Any = None) -> dict[str, Ratio]:
    """The first of two passes for a `RatioTerm`, whose denominator depends on the prediction: its sums over the step.

    Without gradients, numerators and denominators are collected over micro-batches and ranks. In the second pass, each
    micro-batch then has its share of the pooled ratio N / D: the value ``n / D`` and the gradient
    ``(dn - N / D * dd) / D``; they add up to those of the whole batch::

        outputs = ((network(images), targets) for images, targets in micro_batches)     # run without gradients
        pooled = hw.pool_denominators(criterion, [...]) | hw.pool_ratios(criterion, outputs)
        ... criterion(network(images), targets, pooled)

    The price is a forward pass per micro-batch. Both passes must see the same outputs: what draws (dropout) or depends
    on the batch (batch normalization in training mode updates its averages twice) is for the caller to keep still.

    Args:
        criterion: The criterion.
        micro_batches: Outputs and targets of each of this rank's micro-batches; a generator is run without gradients.
        group: A process group; None means the default one if `torch.distributed` is initialized.

    Returns:
        Per `RatioTerm` the pooled ratio, to be handed to the criterion beside the denominators of `pool_denominators`.

    Raises:
        ValueError: There are no micro-batches.
    """
    check_criterion("pool_ratios", criterion)
    totals: dict[str, Ratio] = {}
    names = [term.name for term in criterion.terms if isinstance(term, RatioTerm)]
    empty = True
    with torch.no_grad():
        for outputs, targets in _pairs(micro_batches):
            empty = False
            breakdown = criterion(outputs, targets)
            for name in names:
                ratio = breakdown[name].ratio
                totals[name] = totals[name] + ratio if name in totals else ratio
    if empty:
        raise ValueError("pool_ratios needs the outputs and targets of at least one micro-batch")
    numerators = _all_reduced({name: ratio.numerator for name, ratio in totals.items()}, group)
    denominators = _all_reduced({name: ratio.denominator for name, ratio in totals.items()}, group)
    return {name: Ratio(numerators[name], denominators[name], totals[name].smooth) for name in names}


def _pairs(micro_batches: Any) -> Iterator[tuple[Any, Any]]:
    """Outputs and targets of each micro-batch."""
    several = micro_batches if isinstance(micro_batches, Iterable) else [micro_batches]
    for each in several if not isinstance(several, Mapping | Tensor) else [several]:
        if not isinstance(each, tuple | list) or len(each) != 2:
            raise ValueError(
                f"pool_ratios: a list with outputs and targets of each micro-batch; found {describe(each)}. Give "
                "[(outputs, targets)] for a step of one"
            )
        yield each[0], each[1]


def undo_averaging(total: Tensor, *, ranks: int | None = None, micro_batches: int = 1, group: Any = None) -> Tensor:
    """Multiplies a total by what the loop will divide its gradient by: the one place where averaging is undone.

    ========================================  ==================================================
    the loop                                  call
    ========================================  ==================================================
    one process, gradients added up           ``undo_averaging(total)``, which changes nothing
    DDP, FSDP2 (mean over ranks)              ``undo_averaging(total)``
    Lightning, Accelerate (and mean over      ``undo_averaging(total, micro_batches=n)``, n their
    ``n`` accumulated micro-batches)          ``accumulate_grad_batches`` or ``gradient_accumulation_steps``
    ranks added up by yourself                ``undo_averaging(total, ranks=1)``
    ========================================  ==================================================

    The ledger divides this factor out again, so that the books read the same in every loop.

    Args:
        total: ``breakdown.total`` of a criterion that was given totaled denominators.
        ranks: Over how many ranks gradients are averaged; by default the size of the group, 1 without one.
        micro_batches: By how many micro-batches the loop divides.
        group: The process group over which gradients are averaged; None means the default one.

    Returns:
        The total times both.

    Raises:
        ValueError: A number is less than 1, or the total is no tensor.
    """
    if not isinstance(total, Tensor):
        raise ValueError(
            f"undo_averaging: multiplies the tensor that backward is called on; found {describe(total)}. Give "
            "breakdown.total"
        )
    if ranks is None:
        ranks = dist.get_world_size(group) if is_distributed() else 1
    check_whole("undo_averaging", ranks=ranks, micro_batches=micro_batches)
    factor = ranks * micro_batches
    return total if factor == 1 else total * factor


def is_distributed() -> bool:
    """Whether there are other ranks to hear from."""
    return dist.is_available() and dist.is_initialized()


def _all_reduced(totals: Mapping[str, Tensor], group: Any) -> dict[str, Tensor]:
    """Sums over the ranks, as one packed all-reduce in float64."""
    if not totals or not is_distributed():
        return dict(totals)
    packed = torch.cat([each.reshape(-1).double() for each in totals.values()])
    dist.all_reduce(packed, group=group)
    parts = torch.split(packed, [each.numel() for each in totals.values()])
    return {name: part.view(each.shape) for (name, each), part in zip(totals.items(), parts, strict=True)}
