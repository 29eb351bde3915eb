"""What the total adds, in numbers: paths, repetitions, and losses computed a second time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headwise.attribution.audit.facts import BatchFacts
from headwise.attribution.audit.gram import gram_of
from headwise.attribution.audit.summands import gradients_of, summands

Row = list[Tensor | None]
_MANY = 16
_TWIN = 1e-5
_FEW = 8


def book_sum(
    facts: BatchFacts, total: Tensor | None, live: Mapping[str, Tensor], outputs: list[Tensor], rows: Sequence[Row]
) -> None:
    """Book how the total is made of the losses.

    Args:
        facts: Where to book.
        total: What backward is called on.
        live: The losses with a graph.
        outputs: The outputs that can be trained.
        rows: Per loss its gradients at these outputs.
    """
    if total is None or (facts.default_total and len(live) > 1):
        return
    named = {} if len(live) == 1 else {name: scalar for name, scalar in live.items() if scalar is not total}
    found = summands(total, named)
    facts.paths = dict(found.named) | dict.fromkeys(set(live) - set(named), 1)
    unnamed = {node: count for node, count in found.unnamed.items() if node is not total.grad_fn}
    if not unnamed or len(unnamed) > _MANY or not outputs:
        return
    extra = gradients_of(unnamed, outputs)
    grams = [gram_of([*(row[i] for row in rows), *(grads[i] for grads in extra)]) for i in range(len(outputs))]
    gram = torch.stack(grams).sum(0).nan_to_num()
    for offset, (grads, count) in enumerate(zip(extra, unnamed.values(), strict=True)):
        where = [path for path, grad in zip(facts.outputs, grads, strict=True) if grad is not None]
        if count > 1 and where:
            facts.repeats.append((", ".join(where), count))
        if _is_telling([grad for grad in grads if grad is not None]):
            _book_twins(facts, gram, len(rows) + offset, where, named)


def _is_telling(grads: Sequence[Tensor]) -> bool:
    """Whether a gradient is unlike those of other losses: many elements, not all of one size as those of L1 are."""
    sizes = torch.cat([grad.detach().abs().flatten() for grad in grads]) if grads else torch.zeros(0)
    sizes = sizes[sizes > 0]
    return len(sizes) >= _FEW and bool(sizes.max() > 1.01 * sizes.min())


def _book_twins(facts: BatchFacts, gram: Tensor, row: int, where: list[str], named: Mapping[str, Tensor]) -> None:
    """A summand whose gradient is that of a loss, or of an earlier summand, is that loss computed again."""
    norms = gram.diagonal().sqrt()
    for name in named:
        other = facts.row(name)
        if norms[row] > 0 and norms[other] > 0 and gram[row, other] / norms[row] / norms[other] > 1 - _TWIN:
            facts.twins[name] = facts.twins.get(name, 0) + 1
            return
    for other in range(len(facts.names) + 1, row):
        same = norms[row] > 0 and abs(norms[other] / norms[row] - 1) < _TWIN
        if same and gram[row, other] / norms[row] / norms[other] > 1 - _TWIN:
            facts.repeats.append((", ".join(where), 2))
