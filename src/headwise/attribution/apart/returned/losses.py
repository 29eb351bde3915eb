"""What training code returned, sorted: its losses, what it calls the total, and what it only reports."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.apart.returned.entries import LossEntry, declared_total, entries_in, renamed, split_total
from headwise.attribution.apart.returned.totals import find_total
from headwise.attribution.apart.sums.counts import added, linear_in, links, summands
from headwise.attribution.apart.words import is_metric, last_key, says_loss, says_total
from headwise.graph import Edge, gradient_edge


@dataclass(frozen=True)
class Returned:
    """A criterion's return value, taken apart.

    Args:
        terms: The losses.
        logs: What is only reported: numbers, tensors without a graph, metrics.
        total: What backward is called on, as far as what was returned tells, or None.
    """

    terms: tuple[LossEntry, ...]
    logs: tuple[LossEntry, ...]
    total: LossEntry | None


def read_losses(
    returned: Any,
    names: Sequence[str] = (),
    *,
    total: Tensor | None = None,
    outputs: Collection[int] = (),
    inputs: Sequence[Tensor] = (),
) -> Returned:
    """Find losses, logs and total.

    Args:
        returned: A scalar, tuple, list, (nested) dict, dataclass, `Breakdown`, or ``(total, losses)``.
        names: Names for the elements of a tuple or list, if there are as many.
        total: What backward is called on, where the caller knows.
        outputs: Identities of the network's outputs: what is handed on is no loss, unless it is a scalar.
        inputs: At which gradients tell that an entry is the sum of others although their graphs share nothing.

    Returns:
        The parts.

    Raises:
        ValueError: There is no loss in it.
    """
    beside, body = split_total(returned)
    found = renamed(list(entries_in(body)), body, names)
    entries = [entry for entry in found if entry.is_scalar or id(entry.value) not in outputs]
    if beside is not None and total is not None and gradient_edge(beside) not in links(gradient_edge(total)):
        # What stands first is not what backward is called on.
        entries.append(LossEntry(next(f"[{nr}]" for nr, each in enumerate(returned) if each is beside), beside))
    if not entries and beside is None:
        raise ValueError(
            f"losses: there is none in what was returned ({_told(returned)}). "
            "Return a scalar tensor, or a tuple, list or dict of them."
        )
    own = next((each for each in (declared_total(returned), beside) if each is not None), None)
    head = None if own is None else LossEntry("total", own)
    given = LossEntry("total", total) if total is not None and total.requires_grad else None
    known = given or head or find_total(entries, inputs)
    entries = _losses_alone(entries, known)
    rest = [entry for entry in entries if entry is not known and not _is_again(entry, known, given is not None)]
    rest = renamed(rest, body, [name for name in names if name != (known and known.name)])
    return _sorted_out(rest, known)


def _sorted_out(rest: list[LossEntry], total: LossEntry | None) -> Returned:
    if total is not None:
        rest = [entry for entry in rest if not _repeats_total(entry, total)]
    is_log = _log_of(rest, None if total is None else added(total.edge))
    terms = tuple(entry for entry in rest if not is_log(entry))
    logs = tuple(entry for entry in rest if is_log(entry))
    if total is not None and not any(entry.edge is not None for entry in terms):
        return Returned((total,), tuple(rest), None)
    return Returned(terms, logs, total)


def _log_of(rest: list[LossEntry], below: Container[Edge] | None) -> Any:
    """What tells the entries that are only reported."""
    cut = [entry for entry in rest if entry.edge is None and says_loss(entry.name) and not _is_metric(entry)]

    def is_log(entry: LossEntry) -> bool:
        if entry.declared is not None:
            return False
        if entry.edge is None:
            return _is_metric(entry)
        if below is None:
            return not entry.is_scalar and is_metric(entry.name)
        if is_added(entry, below):
            # A metric that a loss is made of is no loss besides.
            return is_metric(entry.name) and any(_holds(other, entry) for other in rest)
        # With a graph and not in the total: a metric, or something beside losses that were detached for a log.
        return is_metric(entry.name) or (bool(cut) and not says_loss(entry.name))

    return is_log


def is_added(entry: LossEntry, below: Container[Edge]) -> bool:
    """Whether a total adds an entry."""
    return any(edge in below for edge in links(entry.edge))


def _holds(outer: LossEntry, inner: LossEntry) -> bool:
    """Whether an entry adds up another one."""
    return outer.edge not in added(inner.edge) and is_added(inner, added(outer.edge))


def _losses_alone(entries: list[LossEntry], total: LossEntry | None) -> list[LossEntry]:
    """Without the tensors that are something to look at (logits) rather than losses per sample."""
    live = [entry for entry in entries if entry.edge is not None and not entry.is_scalar]
    below = frozenset() if total is None else linear_in(total.edge)
    alone = total is None and not any(entry.is_scalar and entry.edge is not None for entry in entries)
    sure = [entry for entry in live if alone or says_loss(entry.name) or is_added(entry, below)]
    if total is None:
        sure += [entry for entry in live if isinstance(entry.value, Tensor) and entry.value.ndim == 1]
    shapes = {entry.value.shape for entry in sure if isinstance(entry.value, Tensor)}
    many = [entry for entry in entries if not entry.is_scalar and (entry in live or says_loss(entry.name))]
    kept = {id(entry) for entry in many if isinstance(entry.value, Tensor) and entry.value.shape in shapes}
    return [entry for entry in entries if entry.is_scalar or id(entry) in kept]


def _is_again(entry: LossEntry, total: LossEntry | None, given: bool) -> bool:
    """Whether an entry is the total itself under another name."""
    if total is None or entry.edge is None:
        return False
    if entry.value is total.value:
        return says_total(entry.name)
    # What a function returned as the total may be an entry on its way through `clone` or `mean`.
    is_top = given and entry.edge in links(total.edge)
    return is_top and (says_total(entry.name) or len(summands(entry.edge)) > 1)


def _repeats_total(entry: LossEntry, total: LossEntry) -> bool:
    """A number for the log that is the total itself."""
    if entry.edge is not None:
        return False
    scale = max(abs(entry.number), abs(total.number), torch.finfo(torch.float32).tiny)
    return says_total(entry.name) or abs(entry.number - total.number) <= 1e-5 * scale


def _is_metric(entry: LossEntry) -> bool:
    """Whether a name or type says that a number is reported, not trained on."""
    if says_loss(last_key(entry.name)):
        return False
    whole = isinstance(entry.value, bool | int) or (
        isinstance(entry.value, Tensor) and not entry.value.is_floating_point()
    )
    return bool(whole and entry.value != 0) or is_metric(entry.name)


def _told(returned: Any) -> str:
    if isinstance(returned, Tensor):
        return f"a tensor of shape {tuple(returned.shape)}"
    return f"a {type(returned).__name__}" if returned is not None else "None"
