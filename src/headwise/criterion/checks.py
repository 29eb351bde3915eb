"""What a criterion refuses before it computes anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headwise.criterion.terms.counting import as_count
from headwise.criterion.terms.term import AnyTerm, RatioTerm, Term
from headwise.ratio import Ratio
from headwise.structure import describe


def as_terms(given: Any) -> tuple[AnyTerm, ...]:
    """Takes a list of terms; refuses what is no list of terms of different names.

    Args:
        given: The terms.

    Returns:
        The terms.

    Raises:
        ValueError: There is none, one is no term, or two have one name.
    """
    if not isinstance(given, Iterable):
        raise ValueError(f"a Criterion holds a list of Terms and RatioTerms; found {describe(given)}")
    terms = tuple(given)
    if not terms:
        raise ValueError("a Criterion needs at least one term")
    for term in terms:
        if not isinstance(term, Term | RatioTerm):
            raise ValueError(f"a Criterion holds Terms and RatioTerms; found {describe(term)}")
    names = [term.name for term in terms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two terms are named {', '.join(map(repr, twice))}. Give every term a name of its own")
    return terms


def as_paths(unread: Any) -> tuple[str, ...]:
    """Takes what is declared unread: a path or several.

    Args:
        unread: The declaration.

    Returns:
        The paths.

    Raises:
        ValueError: They are no texts.
    """
    paths = (unread,) if isinstance(unread, str) else tuple(unread) if isinstance(unread, Iterable) else None
    if paths is None or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"unread is a list of paths, such as ['maps[:, 0:2]']; found {unread!r}")
    return paths


def check_denominators(
    terms: Sequence[AnyTerm], denominators: Mapping[str, Tensor | Ratio | float] | None
) -> dict[str, Tensor | Ratio] | None:
    """Refuses denominators of other terms, and what can be none.

    Args:
        terms: The terms.
        denominators: What was given to divide them, or None.

    Returns:
        The same as tensors and ratios; NaN for what is negative or infinite on another device.

    Raises:
        ValueError: They are not one for each `Term`, a ratio is not for a `RatioTerm`, or one is no real number from 0.
    """
    if denominators is None:
        return None
    if not isinstance(denominators, Mapping):
        raise ValueError(f"denominators are a dict with one a term; found {describe(denominators)}")
    wanted = {term.name for term in terms if isinstance(term, Term)}
    found = {name for name, each in denominators.items() if not isinstance(each, Ratio)}
    ratios = set(denominators) - found
    if found != wanted or not ratios <= {term.name for term in terms if isinstance(term, RatioTerm)}:
        raise ValueError(
            f"denominators are needed for exactly the terms {', '.join(sorted(wanted))}; found "
            f"{', '.join(sorted(map(str, denominators))) or 'none'}. Total what criterion.denominators(targets) "
            "returns (pool_denominators does), and give ratios (pool_ratios) to RatioTerms alone"
        )
    return {name: each if isinstance(each, Ratio) else _denominator(name, each) for name, each in denominators.items()}


def _denominator(name: str, given: Any) -> Tensor:
    try:
        found = as_count(given, any_shape=True)
    except ValueError as error:
        raise ValueError(
            f"term {name!r}: its denominator: {error}. Total what criterion.denominators returns"
        ) from None
    return found if isinstance(found, Tensor) else torch.tensor(found, dtype=torch.float64)
