"""Which term's training helps or harms which held-out loss, to first order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from headwise.attribution.jacobians.effect import Closure, Effect, effect, gradient_of, noted
from headwise.attribution.jacobians.grouping import chosen_parameters
from headwise.attribution.jacobians.held import fresh_pass, refuse_no_closure
from headwise.attribution.text import columns
from headwise.attribution.tracing.named import weighted_values
from headwise.refusals import refuse_sharded
from headwise.tabular import Tabular


@dataclass(frozen=True)
class Transfer(Tabular):
    """What a small step down each term's gradient alone does to each held-out loss.

    Attributes:
        terms: Names of the terms.
        held_out: Names of the held-out losses.
        values: The held-out losses at the parameters as they are.
        changes: By (term, held-out loss): minus the inner product of their gradients, divided by the norm of the
            term's; negative: training the term lowers the loss.
        norms: By term the norm of its weighted gradient: ``changes * norms`` adds up over the terms to what a step down
            the gradient of their sum does.
        method: "forward": one forward-mode pass a term. "rows": one backward pass per term and held-out loss.
        reason: Why not "forward".
        unreached: The held-out losses to which no parameter leads that any of the terms trains.
    """

    terms: tuple[str, ...]
    held_out: tuple[str, ...]
    values: Mapping[str, float]
    changes: Mapping[tuple[str, str], float]
    norms: Mapping[str, float]
    method: Literal["forward", "rows"]
    reason: str = ""
    unreached: tuple[str, ...] = ()

    def change(self, term: str, held_out: str) -> float:
        """The change of one held-out loss per unit of a step down one term's gradient.

        Args:
            term: The term.
            held_out: The held-out loss.

        Returns:
            The change.

        Raises:
            ValueError: There is no such term or loss.
        """
        if (term, held_out) not in self.changes:
            raise ValueError(
                f"transfer: no term {term!r} or no held-out loss {held_out!r}. The terms are: {', '.join(self.terms)}; "
                f"the losses: {', '.join(self.held_out)}"
            )
        return self.changes[term, held_out]

    def harms(self, held_out: str) -> tuple[str, ...]:
        """The terms whose training raises a held-out loss, the worst first.

        Args:
            held_out: The held-out loss.

        Returns:
            Their names.
        """
        found = {term: self.change(term, held_out) for term in self.terms}
        return tuple(sorted((term for term in found if found[term] > 0), key=lambda term: -found[term]))

    @classmethod
    def mean(cls, tables: Sequence[Transfer]) -> Transfer:
        """The mean of tables of several batches: of one batch it is noisy.

        Args:
            tables: Of the same terms and losses.

        Returns:
            Means of changes, norms and values.

        Raises:
            ValueError: There is none, or they differ in terms or losses.
        """
        if not tables or any((each.terms, each.held_out) != (tables[0].terms, tables[0].held_out) for each in tables):
            raise ValueError("transfer: a mean is of tables of the same terms and held-out losses, at least one")
        first, num = tables[0], len(tables)
        slow = next((each for each in tables if each.method == "rows"), first)
        return cls(
            first.terms,
            first.held_out,
            {name: math.fsum(each.values[name] for each in tables) / num for name in first.held_out},
            {pair: math.fsum(each.changes[pair] for each in tables) / num for pair in first.changes},
            {name: math.fsum(each.norms[name] for each in tables) / num for name in first.terms},
            slow.method,
            slow.reason,
            _in_all(tables),
        )

    def table_rows(self) -> list[dict[str, Any]]:
        """A row a term, a column a held-out loss."""
        return [
            {"term": term, "grad_norm": self.norms[term], **{loss: self.changes[term, loss] for loss in self.held_out}}
            for term in self.terms
        ]

    def table_title(self) -> str:
        """How it was measured."""
        return "change of the held-out losses" + (f", by rows: {self.reason}" if self.reason else "")

    def __str__(self) -> str:
        rows = [
            [term, f"{self.norms[term]:.4g}", *(f"{self.changes[term, loss]:+.3g}" for loss in self.held_out)]
            for term in self.terms
        ]
        rows.append(["(value)", "", *(f"{self.values[loss]:.5g}" for loss in self.held_out)])
        return noted(columns(["term", "grad norm", *self.held_out], rows), self.reason, self.unreached)


def _in_all(tables: Sequence[Effect | Transfer]) -> tuple[str, ...]:
    return tuple(loss for loss in tables[0].unreached if all(loss in each.unreached for each in tables))


def transfer(
    training: Closure,
    held_out: Closure,
    model: nn.Module,
    *,
    terms: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    held_out_names: Sequence[str] | None = None,
) -> Transfer:
    """Tells which term helps or harms which held-out loss, by one backward and one forward-mode pass a term.

    ``change[k, m] = -<g_k, h_m> / |g_k|``, with g_k the gradient of term k (weight included) on a training batch and
    h_m that of loss m on a held-out batch, over all parameters. It is the first-order change of loss m for a step of
    length 1 down g_k alone; what an optimizer makes of the gradient (Adam's scaling) is not in it, for that see
    `effect`. The price does not grow with the number of held-out losses, and memory holds one term's gradient at a
    time. Made for every hundredth step or so; `Transfer.mean` averages.

    Parameters, `.grad`, buffers and random state stay as they are. Whether the model trains or evaluates is yours to
    set: the passes take it as it stands.

    Args:
        training: Makes a fresh forward pass with `model` on a training batch and returns the terms (a dict, tuple or
            list, `Breakdown`).
        held_out: The same on a held-out batch, returning what is measured there; differentiable.
        model: The network that both call.
        terms: Which terms; None for all. A few of them in turn make a sampled table cheaper still.
        names: Names of the terms of a tuple or list.
        held_out_names: The same for the held-out losses.

    Returns:
        The table.

    Raises:
        ValueError: No term has a graph, a term does not exist, or parameters are sharded (FSDP2).
    """
    for each in (training, held_out):
        refuse_no_closure("transfer", each)
    parameters = chosen_parameters("transfer", model, None)
    refuse_sharded("transfer", parameters)
    chosen = _names_of(training, model, names, terms)
    changes: dict[tuple[str, str], float] = {}
    norms, tables = {}, []
    for term in chosen:
        gradient = gradient_of(training, model, parameters, names, term)
        norm = torch.stack([grad.double().square().sum().cpu() for grad in gradient.values()]).sum().sqrt()
        norms[term] = float(norm)
        unit = {name: -grad / norm.to(grad) if norm > 0 else grad for name, grad in gradient.items()}
        found = effect(held_out, model, unit, names=held_out_names)
        tables.append(found)
        changes |= {(term, loss): change for loss, change in zip(found.losses, found.changes, strict=True)}
    last = tables[-1]
    slow = next((each for each in tables if each.method == "rows"), last)
    values = dict(zip(last.losses, last.values, strict=True))
    return Transfer(tuple(chosen), last.losses, values, changes, norms, slow.method, slow.reason, _in_all(tables))


def _names_of(
    training: Closure, model: nn.Module, names: Sequence[str] | None, terms: Sequence[str] | None
) -> list[str]:
    """The terms that have a graph, of those that are wanted."""
    known = fresh_pass(model, lambda: list(weighted_values(training(), names)))
    if not known:
        raise ValueError("transfer: no term has a graph. The closure must make a fresh forward pass with gradients.")
    for term in terms or ():
        if term not in known:
            raise ValueError(f"transfer: no term {term!r} with a graph. There are: {', '.join(known)}.")
    return known if terms is None else list(terms)
