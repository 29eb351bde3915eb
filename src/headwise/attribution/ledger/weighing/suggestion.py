"""The weights that would have given each term its share of the gradient, from steps that were booked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, geometric_mean, quantiles
from typing import Any, Literal, TypeAlias

from headwise.attribution.ledger.books import Books
from headwise.attribution.ledger.weighing.balancing import term_of_head
from headwise.attribution.ledger.weighing.rule import OUTPUTS
from headwise.attribution.text import clipped
from headwise.tabular import Tabular

Target: TypeAlias = "Literal['equal'] | Mapping[str, float]"

Weighed: TypeAlias = Mapping[str, tuple[float, float]]
"""Of one step, by term: the weight, and the norm of the gradient that it sent with that weight."""


@dataclass(frozen=True)
class SuggestedWeight:
    """One term.

    Args:
        weight: The weight that was used, its mean over the steps.
        suggested: The weight that would have given the share over all of them, of the sign of the one that was used.
        low: A tenth of the steps alone would ask for less.
        high: A tenth of them would ask for more.
        share: The term's part of the sum of norms as it was, its mean over the steps that know the norms of all
            terms, finite ones; NaN where there is no such step.
        share_then: The same with the suggested weights.
    """

    weight: float
    suggested: float
    low: float
    high: float
    share: float
    share_then: float


@dataclass(frozen=True, repr=False)
class Suggestion(Tabular):
    """What `Ledger.suggest` found; print it.

    Args:
        terms: By name; terms that are left as they are are not in it.
        at: Where norms were taken.
        num_steps: From how many steps.
        silent: Terms that sent nothing in any step, or always had a weight of 0: no weight can be told from that.
    """

    terms: dict[str, SuggestedWeight]
    at: str
    num_steps: int
    silent: tuple[str, ...] = ()

    @property
    def weights(self) -> dict[str, float]:
        """The suggested weights, as ``Criterion(..., weights=)`` takes them."""
        return {name: each.suggested for name, each in self.terms.items()}

    def as_dict(self) -> dict[str, Any]:
        """The same as nested plain data, as ``headwise suggest --json`` prints it; what is not known is None."""
        terms = {
            name: {key: None if math.isnan(number) else number for key, number in asdict(each).items()}
            for name, each in self.terms.items()
        }
        return {**asdict(self), "terms": terms, "silent": list(self.silent)}

    def table_rows(self) -> list[dict[str, Any]]:
        """A row a term; those that sent nothing have a name alone."""
        rows = [{"term": name, **asdict(each)} for name, each in self.terms.items()]
        return [*rows, *({"term": name} for name in self.silent)]

    def table_title(self) -> str:
        """From how many steps, and where."""
        return f"suggested weights, from {self.num_steps} step{'' if self.num_steps == 1 else 's'} at {self.at}"

    def __str__(self) -> str:
        width = min(max(8, *(len(name) for name in (*self.terms, *self.silent))), 28)
        head = f"{'term':<{width}} {'weight':>10} {'suggested':>10} {'from':>10} {'to':>10} {'share':>7} {'then':>7}"
        rows = [
            f"{clipped(name, width):<{width}} {e.weight:>10.4g} {e.suggested:>10.4g} {e.low:>10.4g} {e.high:>10.4g} "
            f"{_percent(e.share)} {_percent(e.share_then)}"
            for name, e in self.terms.items()
        ]
        rows += [
            f"{clipped(name, width):<{width}} sent nothing that was seen: no weight can be told" for name in self.silent
        ]
        return "\n".join([self.table_title(), head, *rows])

    __repr__ = __str__


def _percent(share: float) -> str:
    return f"{'-':>7}" if math.isnan(share) else f"{share:>7.1%}"


def suggest(steps: Sequence[Weighed], target: Target = "equal", at: str = "outputs") -> Suggestion:
    """Suggests weights.

    With u_t the norm at weight 1 and m its geometric mean over the steps, ``weight_t = share_t / sum share * sum_s
    m(w_s u_s) / m(u_t)``: over the steps, norms would have had the shares, and the same sum. The geometric mean, for a
    few steps whose norm is a hundred times that of all others (the first ones) shall not decide. Steps in which a term
    sends nothing, or something that is not finite, do not count for it. A weight below 0 stays below 0: a norm does not
    tell what is to grow (a bonus) from what is to fall.

    Args:
        steps: What was booked.
        target: "equal", or shares by term, any positive numbers; of terms that are not named the weight stays.
        at: Where norms were taken, for the print.

    Returns:
        The suggestion.

    Raises:
        ValueError: There is no step or no term that sent anything, a weight had either sign, or a share is not positive
            or names no term.
    """
    names = list(dict.fromkeys(name for step in steps for name in step))
    if not names:
        raise ValueError("suggest: there is no step to learn from. Train some steps with the books open first")
    shares = _checked(target, names)
    units = {name: _units(steps, name) for name in shares}
    heard = {name: found for name, found in units.items() if found}
    silent = tuple(name for name in shares if name not in heard)
    if not heard:
        raise ValueError(
            f"suggest: {', '.join(silent)} sent nothing that was seen in any of {len(steps)} steps. Look at their masks"
        )
    scale = math.fsum(shares[name] for name in heard)
    signs = {name: _sign(name, found) for name, found in heard.items()}
    size = math.fsum(
        geometric_mean([abs(weight) * unit for weight, unit in found.values()]) for found in heard.values()
    )
    weights = {
        name: signs[name] * shares[name] / scale * size / geometric_mean([unit for _, unit in found.values()])
        for name, found in heard.items()
    }
    found = {}
    for name, each in heard.items():
        low, high = _range([signs[name] * shares[name] / scale * size / unit for _, unit in each.values()])
        now, then = (_share(steps, heard, name, given) for given in (None, weights))
        used = fmean(weight for weight, _ in each.values())
        found[name] = SuggestedWeight(used, weights[name], min(low, weights[name]), max(high, weights[name]), now, then)
    return Suggestion(found, at, len(steps), silent)


def weighed(books: Books, at: str) -> Weighed:
    """What `suggest` takes of a step.

    Args:
        books: Of the step.
        at: "outputs", or the name of a `Junction`, whose heads are terms then.

    Returns:
        By term, or by head of a feature, its weight and the norm that it sent.

    Raises:
        ValueError: No such junction was booked.
    """
    if at == OUTPUTS:
        return {name: (term.weight, term.grad_norm) for name, term in books.items()}
    if at not in books.features:
        raise ValueError(f"suggest: no junction {at!r} was booked, only {', '.join((OUTPUTS, *books.features))}")
    reads = {name: tuple(term.outputs) for name, term in books.items()}
    norms: dict[str, float] = {}
    for head, norm in books.features[at].grad_norm.items():
        term = term_of_head(head, reads, at)
        norms[term] = math.hypot(norms.get(term, 0.0), norm)
    return {term: (books[term].weight, norm) for term, norm in norms.items()}


def _checked(target: Target, names: Sequence[str]) -> dict[str, float]:
    if isinstance(target, str):
        if target != "equal":
            raise ValueError(f"suggest: target is 'equal' or shares by term; found {target!r}")
        return dict.fromkeys(names, 1.0)
    if not isinstance(target, Mapping) or not target:
        raise ValueError(f"suggest: target is 'equal' or shares by term; found {target!r}")
    for name, share in target.items():
        if name not in names:
            raise ValueError(f"suggest: no term {name!r} was booked. There are: {', '.join(names)}")
        if not 0 < share < math.inf:
            raise ValueError(f"suggest: a share is a positive number; found {share} for {name!r}")
    return dict(target)


def _units(steps: Sequence[Weighed], name: str) -> dict[int, tuple[float, float]]:
    """By step the weight and the norm at weight 1, where something finite was sent."""
    found = {}
    for number, step in enumerate(steps):
        weight, norm = step.get(name, (0.0, 0.0))
        if 0 < norm < math.inf and weight and math.isfinite(weight):
            found[number] = weight, norm / abs(weight)
    return found


def _sign(name: str, found: Mapping[int, tuple[float, float]]) -> float:
    signs = {math.copysign(1.0, weight) for weight, _ in found.values()}
    if len(signs) > 1:
        raise ValueError(
            f"suggest: the weight of {name!r} was above 0 in some steps and below 0 in others, and norms do not tell "
            "which is meant. Look at what moves it, or give shares of the other terms"
        )
    return signs.pop()


def _range(weights: Sequence[float]) -> tuple[float, float]:
    if len(weights) < 2:
        return weights[0], weights[0]
    tenths = quantiles(weights, n=10, method="inclusive")
    return tenths[0], tenths[-1]


def _share(
    steps: Sequence[Weighed],
    heard: Mapping[str, Mapping[int, tuple[float, float]]],
    name: str,
    given: Mapping[str, float] | None,
) -> float:
    """A term's part of the sum of the norms of all balanced terms, its mean over the steps that know them all."""
    found = []
    for number, step in enumerate(steps):
        norms = {
            each: unit * abs(weight if given is None else given[each])
            for each, known in heard.items()
            if number in known
            for weight, unit in [known[number]]
        }
        if norms and all(math.isfinite(math.fsum(step.get(each, (math.nan,)))) for each in heard):
            found.append(norms.get(name, 0.0) / math.fsum(norms.values()))
    return fmean(found) if found else math.nan
