"""What belongs to a loss or a count, said once where it is defined: what divides it, and what holds of its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Declaration:
    """What `declared` says of a function.

    Args:
        count: What divides the loss: a function ``(targets..., mask) -> count``, or None.
        shared: The options that loss and count have in common.
        least: Least pooled count, for a loss that has something to learn where the count is 0.
        closed_form: Whether the loss shows what it reads to nobody, and computes its gradient itself.
        split_variant: Why its gradient depends on how a batch is split, or None.
        unless: The option that, if true, lifts `split_variant`.
        constant: Whether a count is a constant, which is not totaled over micro-batches and ranks.
    """

    count: Callable[..., Any] | None = None
    shared: tuple[str, ...] = ()
    least: float = 0.0
    closed_form: bool = False
    split_variant: str | None = None
    unless: str | None = None
    constant: bool = False


def declared(
    _function: Callable[..., Any] | None = None,
    /,
    *,
    count: Callable[..., Any] | None = None,
    shared: tuple[str, ...] = (),
    least: float = 0.0,
    closed_form: bool = False,
    split_variant: str | None = None,
    unless: str | None = None,
    constant: bool = False,
) -> Callable[[Function], Function]:
    """Says of a loss, or of a count, what belongs to it; a `Term` of it then needs to say nothing more.

    ::

        @hw.declared(count=normalizers.labeled, shared=("ignore_index",))
        def my_cross_entropy(output, target, mask=None, *, ignore_index=None): ...

        hw.Term("region", partial(my_cross_entropy, ignore_index=255), output="region", target="label")

    Args:
        count: What divides the loss where a term names nothing else: a function of the same targets and mask.
        shared: Options that are fixed at the loss (by `functools.partial`) and handed to the count as well.
        least: The count is at least this, once it has been totaled over levels, micro-batches and ranks: 1 for a loss
            that has negatives to learn from where there are no positives to count.
        closed_form: Set it only for a loss that keeps no tensor, hands none on and adds no hook: then its gradient may
            be written where it is needed.
        split_variant: Why the gradient depends on how a batch is split over micro-batches and ranks, though counts are
            totaled. Cards, trace and `headwise.testing` print it.
        unless: Name of the option of the loss that, if true, makes it exact.
        constant: For a count that is not totaled over micro-batches and ranks.

    Returns:
        A decorator; the function itself is left as it is.

    Raises:
        ValueError: It is used without parentheses, and so declares nothing; or something is not of its kind.
    """
    if _function is not None:
        name = getattr(_function, "__name__", repr(_function))
        raise ValueError(
            f"declared: what is declared of {name} is given by name, found it alone. Write @hw.declared(count=...), or "
            "hw.declared(count=...)(function); of a loss without a count of its own nothing need be declared"
        )
    for what, is_meant in (
        (f"count is a function; found {count!r}", count is None or callable(count)),
        (f"shared is a tuple of names of options; found {shared!r}", _are_names(shared)),
        (f"split_variant says why; found {split_variant!r}", split_variant is None or isinstance(split_variant, str)),
        (f"unless is the name of an option; found {unless!r}", unless is None or isinstance(unless, str)),
        (f"least is a finite number from 0; found {least!r}", isinstance(least, int | float) and 0 <= least < math.inf),
    ):
        if not is_meant:
            raise ValueError(f"declared: {what}")
    found = Declaration(count, tuple(shared), least, closed_form, split_variant, unless, constant)

    def declare(function: Function) -> Function:
        function.declaration = found  # type: ignore[attr-defined]
        return function

    return declare


def _are_names(given: Any) -> bool:
    return isinstance(given, tuple | list) and all(isinstance(each, str) for each in given)


def declaration_of(function: Any) -> Declaration:
    """What is declared of a function, through `functools.partial`.

    Args:
        function: A loss or a count.

    Returns:
        Its declaration; an empty one if there is none. One that `functools.wraps` copied from another function is not
        its own.
    """
    while True:
        found = getattr(function, "declaration", None)
        if isinstance(found, Declaration) and found is not getattr(
            getattr(function, "__wrapped__", None), "declaration", None
        ):
            return found
        if not isinstance(function, partial):
            return Declaration()
        function = function.func


def unwrapped(function: Any) -> tuple[Any, dict[str, Any]]:
    """The function inside of partial applications.

    Args:
        function: Any callable.

    Returns:
        The function, and the options that were fixed.
    """
    options: dict[str, Any] = {}
    while isinstance(function, partial):
        options = {**function.keywords, **options}
        function = function.func
    return function, options


def why_split_variant(function: Any) -> str | None:
    """Why a gradient depends on how a batch is split, as a function declares it.

    Args:
        function: A loss or a count, with the options that `functools.partial` fixed; one that cannot be decorated may
            have an attribute `split_variant`.

    Returns:
        The reason and the exact variant, or None if it adds up exactly.
    """
    declaration = declaration_of(function)
    called, options = unwrapped(function)
    said = getattr(called, "split_variant", None)
    exact = declaration.unless is not None and options.get(declaration.unless)
    return str(said) if said else None if exact else declaration.split_variant
