"""Which terms depend on how a batch is split over micro-batches and ranks, and why: as their functions declare it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

from headwise import losses, normalizers
from headwise.criterion.term import AnyTerm, Term

_EXACT = "as_published=False is exact"
_REASONS: Mapping[Any, str] = {
    losses.hard_negative_cross_entropy: "the hardest negatives are chosen over the micro-batch; per_image is exact",
    losses.published_relative_smooth_l1: f"one valid pixel in the micro-batch lets all others count; {_EXACT}",
    losses.published_direction_smooth_l1: f"one valid pixel in the micro-batch lets all others count; {_EXACT}",
    normalizers.published_peaks: f"every micro-batch counts at least one peak; {_EXACT}",
    normalizers.published_objects: f"every micro-batch adds 1e-4 to its count; {_EXACT}",
    normalizers.published_chunks: f"a sum per micro-batch, averaged over micro-batches and ranks; {_EXACT}",
}


def why_split_variant(term: AnyTerm) -> str | None:
    """Why a term's gradient changes with the split of a batch, although its denominators are totalled over the step.

    A function of yours declares it by an attribute ``split_variant`` that says why.

    Args:
        term: The term.

    Returns:
        The reason and the exact variant, or None if the term adds up exactly.
    """
    functions = [term.loss, term.normalizer] if isinstance(term, Term) else [term.loss]
    reasons = [_why(function) for function in functions]
    return next((reason for reason in reasons if reason is not None), None)


def _why(function: Any) -> str | None:
    called, options = _unwrapped(function)
    if called is losses.hard_negative_cross_entropy and options.get("per_image"):
        return None
    declared = getattr(called, "split_variant", None)
    known = _REASONS.get(called) if isinstance(called, Hashable) else None
    return str(declared) if declared else known


def _unwrapped(function: Any) -> tuple[Any, dict[str, Any]]:
    """The function inside partial applications, and their options."""
    options: dict[str, Any] = {}
    while isinstance(function, partial):
        options = {**function.keywords, **options}
        function = function.func
    return function, options
