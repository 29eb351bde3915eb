"""What a criterion refuses before it computes anything."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from headwise.criterion.term import AnyTerm, RatioTerm, Term, Weight
from headwise.ratio import Ratio
from headwise.structure import describe


def check_terms(terms: Sequence[Any]) -> None:
    """Refuses what is no list of terms of different names.

    Args:
        terms: The terms.

    Raises:
        ValueError: There is none, one is no term, or two have one name.
    """
    if not terms:
        raise ValueError("a Criterion needs at least one term")
    for term in terms:
        if not isinstance(term, Term | RatioTerm):
            raise ValueError(f"a Criterion holds Terms and RatioTerms; found {describe(term)}")
    names = [term.name for term in terms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two terms are named {', '.join(map(repr, twice))}. Give every term a name of its own")


def check_denominators(terms: Sequence[AnyTerm], denominators: Mapping[str, Tensor | Ratio] | None) -> None:
    """Refuses denominators of other terms.

    Args:
        terms: The terms.
        denominators: What was given to divide them, or None.

    Raises:
        ValueError: They are not one for each `Term`, or a ratio is not for a `RatioTerm`.
    """
    if denominators is None:
        return
    wanted = {term.name for term in terms if isinstance(term, Term)}
    found = {name for name, each in denominators.items() if not isinstance(each, Ratio)}
    ratios = set(denominators) - found
    if found != wanted or not ratios <= {term.name for term in terms if isinstance(term, RatioTerm)}:
        raise ValueError(
            f"denominators are needed for exactly the terms {', '.join(sorted(wanted))}; found "
            f"{', '.join(sorted(denominators)) or 'none'}. Total what criterion.denominators(targets) returns "
            "(pool_denominators does), and give ratios (pool_ratios) to RatioTerms alone"
        )


def warn_of_still_schedules(weights: Iterable[Weight]) -> None:
    """Warns of a schedule that nobody moves on; called after many calls at step 0.

    Args:
        weights: The terms' weights.
    """
    if any(callable(weight) and not isinstance(weight, Tensor) for weight in weights):
        warnings.warn(
            "a weight follows a schedule, but after 100 calls Criterion.advance() was never called: the weight "
            "stands still. Call criterion.advance() beside optimizer.step()",
            stacklevel=5,
        )
