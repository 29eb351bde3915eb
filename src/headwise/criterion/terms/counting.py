"""What divides a term: the count that its loss declares or that was chosen, and how that is called."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import Declaration, declaration_of, unwrapped
from headwise.structure import describe
from headwise.tabular import is_number

Parameters = Mapping[str, inspect.Parameter]


@dataclass(frozen=True, eq=False)
class Arguments:
    """Which arguments a count is given.

    Args:
        order: The targets that it is given by position.
        names: Those that it is given by keyword, as name and place.
        mask: How it is given the mask: "name", "position", or not at all.
    """

    order: tuple[int, ...] = (0,)
    names: tuple[tuple[str, int], ...] = ()
    mask: str | None = "position"


@dataclass(frozen=True, eq=False)
class Count:
    """What divides a term.

    Args:
        function: The count, with the options that it shares with the loss; or a number.
        call: How it is called.
        least: The least that the total is.
        constant: Whether it is not totaled over micro-batches and ranks.
        trusted: Whether it is Headwise's own, which returns what a count may be.
    """

    function: Callable[..., Any] | float
    call: Arguments = Arguments()
    least: float = 0.0
    constant: bool = False
    trusted: bool = False

    def of(self, targets: Sequence[Tensor], mask: Tensor | None) -> Any:
        """Whatever the count returns.

        Args:
            targets: What the term's target paths name.
            mask: The evaluated mask, or None.

        Returns:
            A number, or what is to be refused.

        Raises:
            ValueError: There is no target to count.
        """
        if isinstance(self.function, int | float):
            return self.function
        if not targets:
            if not self.constant and self.trusted:
                raise ValueError("there is no target to count. Give a number as normalizer, or name a target")
            targets = (None,)  # type: ignore[assignment]
        call = self.call
        arguments: list[Any] = [targets[place] for place in call.order]
        keywords: dict[str, Any] = {name: targets[place] for name, place in call.names}
        if call.mask == "name":
            keywords["mask"] = mask
        elif call.mask == "position":
            arguments.append(mask)
        return self.function(*arguments, **keywords)


def make_count(
    loss: Callable[..., Any], given: Callable[..., Any] | float | None, names: tuple[str | None, ...], masked: bool
) -> Count:
    """What divides a loss.

    Args:
        loss: The loss.
        given: What the term says; None for the loss's own count.
        names: One a target of the term: its keyword, or None where targets are given by position.
        masked: Whether the term has a mask.

    Returns:
        The count.

    Raises:
        ValueError: It is none, an option that loss and count share is given differently, or it takes no mask.
    """
    if isinstance(given, int | float):
        if isinstance(given, bool) or not 0 < given < math.inf:
            raise ValueError(f"a constant normalizer is positive; found {given}")
        return Count(float(given), constant=True, trusted=True)
    if given is not None and not callable(given):
        raise ValueError(f"the normalizer is a function (target, mask) -> count or a number; found {given!r}")
    own = declaration_of(loss)
    chosen = given or own.count or normalizers.elements
    parameters = _parameters(chosen)
    function = _with_shared_options(loss, own, chosen, parameters)
    called = unwrapped(chosen)[0]
    return Count(
        function,
        _call(loss, parameters, names, masked, called),
        own.least if called is own.count else 0.0,
        declaration_of(chosen).constant,
        getattr(normalizers, getattr(called, "__name__", ""), None) is called,
    )


def as_count(found: Any, trusted: bool = False, any_shape: bool = False) -> Tensor | float:
    """Asks that what divides a loss is one real number from 0.

    What the host knows is looked at; what is on another device becomes NaN there if it is negative or infinite, so that
    nothing waits.

    Args:
        found: What a count returned, or what was given in its place.
        trusted: Whether it is known to be from 0, if it is a tensor.
        any_shape: Whether it may have one element a level.

    Returns:
        The same, or its like with NaN for a number that is negative or infinite.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(found, Tensor):
        is_other = found.dtype.is_complex or found.dtype == torch.bool or found.layout != torch.strided
        if (found.dim() and not any_shape) or is_other:
            raise ValueError(
                f"what divides a loss is one real number, a 0-d tensor; found {describe(found)}. Sum it over the batch"
            )
        return found if trusted else _from_zero(found)
    known = is_number(found)
    if not known and not isinstance(found, torch.SymInt | torch.SymFloat):
        raise ValueError(f"what divides a loss is one real number, a 0-d tensor; found {describe(found)}")
    if known and not 0 <= found <= sys.float_info.max:
        raise ValueError(f"what divides a loss is a finite number from 0; found {str(found)[:40]}")
    return found  # type: ignore[no-any-return]


def _from_zero(count: Tensor) -> Tensor:
    fine = (count >= 0) & (count < torch.inf)
    if is_seen(count):
        if not fine.all():
            raise ValueError(f"what divides a loss is a finite number from 0; found {count.tolist()}")
        return count
    return torch.where(fine, count, torch.nan)


def is_seen(count: Tensor) -> bool:
    """Whether the host knows a number: it is neither on a device, nor traced, nor batched."""
    on_host = type(count) is Tensor and count.is_cpu and not torch.compiler.is_compiling()
    return on_host and not torch._C._are_functorch_transforms_active()


def _parameters(function: Any) -> Parameters:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _with_shared_options(
    loss: Callable[..., Any], own: Declaration, chosen: Callable[..., Any], parameters: Parameters
) -> Callable[..., Any]:
    """The count with the options of the loss; what is said at the loss need not be said again."""
    if not own.shared:
        return chosen
    fixed, counted = unwrapped(loss)[1], unwrapped(chosen)[1]
    declared = _parameters(loss)
    shared = {}
    for name in own.shared:
        said = fixed[name] if name in fixed else declared[name].default
        if name in counted:
            if counted[name] != said:
                raise ValueError(
                    f"the loss has {name}={said!r}, its normalizer {name}={counted[name]!r}; what they share is one "
                    "number. Say it at the loss alone"
                )
        elif name in parameters and parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
            shared[name] = said
    return partial(chosen, **shared) if shared else chosen


def _call(loss: Any, parameters: Parameters, names: tuple[str | None, ...], masked: bool, count: Any) -> Arguments:
    if not parameters:
        return Arguments()
    by_name = tuple([(name, place) for place, name in enumerate(names) if name is not None])
    found = _by_keyword(loss, parameters, by_name) if by_name else _by_position(parameters, tuple(range(len(names))))
    if found.mask is None and masked:
        raise ValueError(
            f"the term has a mask, the normalizer {getattr(count, '__name__', count)!r} takes none: it takes "
            f"({', '.join(parameters)}). Give it a parameter named mask"
        )
    return found


def _by_keyword(loss: Any, parameters: Parameters, names: tuple[tuple[str, int], ...]) -> Arguments:
    kinds = {each.kind for each in parameters.values()}
    mask = "name" if "mask" in parameters or inspect.Parameter.VAR_KEYWORD in kinds else None
    if inspect.Parameter.VAR_KEYWORD in kinds or all(name in parameters for name, _ in names):
        return Arguments((), names, mask)
    # In the order in which the loss takes them, they mean the same to a count that names them otherwise.
    order = [name for name, each in _parameters(loss).items() if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    if all(name in order for name, _ in names):
        return _by_position(parameters, tuple([place for _, place in sorted(names, key=lambda n: order.index(n[0]))]))
    known = tuple([(name, place) for name, place in names if name in parameters])
    needed = {name for name, each in parameters.items() if each.default is each.empty} - {"mask"}
    if known and needed <= {name for name, _ in known}:
        return Arguments((), known, mask)
    return _by_position(parameters, (0,))


def _by_position(parameters: Parameters, places: tuple[int, ...]) -> Arguments:
    """All targets if the count takes as many, else the first; the mask by its name, or after them."""
    places = places or (0,)
    positional = [
        each for name, each in parameters.items() if each.kind.name.startswith("POSITIONAL") and name != "mask"
    ]
    needed = sum(each.default is each.empty for each in positional)
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters.values()):
        return Arguments(places, (), "name" if "mask" in parameters else "position")
    if "mask" in parameters:
        return Arguments(places if len(positional) >= len(places) else places[:1], (), "name")
    if len(positional) > len(places):
        return Arguments(places, (), "position")
    if len(positional) == len(places) == needed:
        return Arguments(places, (), None)
    return Arguments(places[:1], (), "position" if len(positional) > 1 else None)
