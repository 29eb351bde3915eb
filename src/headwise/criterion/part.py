"""Some terms of a criterion, as a criterion."""

from __future__ import annotations

from headwise.criterion.criterion import Criterion


def part_of(criterion: Criterion, names: tuple[str, ...]) -> Criterion:
    """The same terms at the same step and weights, of some names; made once, so that plans and kernels stay.

    Args:
        criterion: The whole.
        names: The terms.

    Returns:
        The part. It has no books of its own, and nothing is declared unread.
    """
    if names not in criterion._parts:
        terms = [term for term in criterion.terms if term.name in names]
        criterion._parts[names] = Criterion(
            terms, compile=criterion._kernels.enabled, on_nonfinite=criterion.on_nonfinite
        )
    part = criterion._parts[names]
    part._weights = {name: criterion._weights[name] for name in part.names}
    part.step = criterion.step
    part.on_nonfinite = criterion.on_nonfinite
    return part
