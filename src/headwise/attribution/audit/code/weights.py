"""Weights that the audited code declares: found by their names, and judged by what the total does when they change."""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attribution.apart.words import plain_name
from headwise.attribution.audit.code.callables import named_values

_WEIGHTISH = re.compile(
    r"(^|_)(weights?|w|lambdas?|lam|gains?|hyp|coefs?|coeffs?|coefficients?|weight_dict|loss_weights)(_|$)", re.I
)
_OTHER = re.compile(r"(^|_)(class|classes|pos|neg|positive|negative|sample|pixel|decay|ohem|init)(_|$)", re.I)
_MIXED = re.compile(r"(^|_)(hyp|hyps|hyper\w*|params|cfg|config|args|opts?|options|settings)(_|$)", re.I)
_TRIED = (1.0, 2.0, 4.0)
_SAME = 1e-4


@dataclass(frozen=True)
class Knob:
    """One number that weighs one loss, where it is kept.

    Args:
        loss: The loss.
        label: How the code calls it.
        value: The number.
        write: Replaces it.
        original: What was there, to be put back.
    """

    loss: str
    label: str
    value: float
    write: Callable[[Any], None]
    original: Any


@dataclass(frozen=True)
class Tried:
    """What the total does when a weight is set to 1, 2 and 4.

    Args:
        loss: The loss.
        label: How the code calls the weight.
        value: The weight.
        power: With which power of the weight the total grows: 0 is never applied, 2 applied twice.
        slope: By how much the total grew from 1 to 2: what the weight multiplies.
    """

    loss: str
    label: str
    value: float
    power: float
    slope: float

    @property
    def is_fault(self) -> bool:
        """Whether it does not do what a weight is for."""
        return self.value != 1 if self.power == 0 else self.power > 1.9 and self.value != 0 and self.value != 1


def tried_weights(functions: Sequence[Any], losses: Sequence[str], total: Callable[[], float]) -> list[Tried]:
    """Try every weight that the code declares for a loss.

    Args:
        functions: Criterion and total, and what stands behind them.
        losses: The losses' names.
        total: Calls both again and returns the value of the total.

    Returns:
        What each does, where the total stays finite.
    """
    groups: dict[tuple[str, float], list[Knob]] = {}
    for function in functions:
        for knob in _knobs(function, losses):
            # Two holders of one number (criterion and total) are one weight, and move together.
            groups.setdefault((knob.loss, knob.value), []).append(knob)
    found = [_try(loss, value, knobs, total) for (loss, value), knobs in groups.items()]
    return [each for each in found if each is not None]


def exchanged(tried: Sequence[Tried], values: Mapping[str, float]) -> dict[str, str]:
    """Weights that multiply each other's losses, as where weights and losses are zipped in two orders.

    Args:
        tried: The weights.
        values: The losses' values, summed as the total is.

    Returns:
        Per weight, as the code calls it, the loss that it multiplies instead of its own.
    """
    own = [each for each in tried if each.value and math.isclose(each.power, 1, rel_tol=1e-3)]
    if len(own) < 2 or len({each.loss for each in own}) < len(own) or not all(values.get(each.loss) for each in own):
        return {}
    # What was returned may be weighed already, by the wrong weight then.
    for slopes in ([each.slope for each in own], [each.slope * each.value for each in own]):
        common = math.fsum(slopes) / math.fsum(values[each.loss] for each in own)
        met = [[e.loss for e in own if math.isclose(slope, common * values[e.loss], rel_tol=_SAME)] for slope in slopes]
        if all(len(each) == 1 for each in met) and len({each[0] for each in met}) == len(own):
            return {each.label: other for each, (other,) in zip(own, met, strict=True) if other != each.loss}
    return {}


def declared_zero(functions: Sequence[Any], losses: Sequence[str]) -> set[str]:
    """The losses whose declared weight is zero."""
    return {knob.loss for function in functions for knob in _knobs(function, losses) if knob.value == 0}


def orphans(functions: Sequence[Any], losses: Sequence[str]) -> list[tuple[str, str, float]]:
    """The weights in tables of losses whose key is no loss's: how the code calls it, the key and the number.

    A table that holds settings of all kinds beside weights is none of losses.
    """
    found: dict[tuple[str, str], tuple[str, str, float]] = {}
    for function in functions:
        for _, name, value in _places(function):
            if (
                not (isinstance(value, MutableMapping) and _WEIGHTISH.search(name))
                or _OTHER.search(name)
                or _MIXED.search(name)
            ):
                continue
            keys = {str(key): key for key, number in value.items() if _is_number(number)}
            strange = [key for key in keys if not _losses_of(key, losses)]
            if len(strange) < len(keys):
                found |= {(name, k): (f"{name}[{k!r}]", k, float(value[keys[k]])) for k in strange if value[keys[k]]}
    return list(found.values())


def _losses_of(key: str, losses: Sequence[str]) -> list[str]:
    return [loss for loss in losses if loss == key or plain_name(loss) == plain_name(key)]


def _try(loss: str, value: float, knobs: Sequence[Knob], total: Callable[[], float]) -> Tried | None:
    values = []
    try:
        for tried in _TRIED:
            for knob in knobs:
                knob.write(_like(knob.original, tried))
            values.append(total())
    finally:
        for knob in knobs:
            knob.write(knob.original)
    if not all(math.isfinite(each) for each in values):
        return None
    first, second = values[1] - values[0], values[2] - values[1]
    if max(abs(first), abs(second)) <= 1e-7 * max(abs(each) for each in values):
        return Tried(loss, knobs[0].label, value, 0.0, 0.0)
    power = math.log2(second / first) if first and second / first > 0 else math.nan
    return Tried(loss, knobs[0].label, value, power, first)


def _like(original: Any, number: float) -> Any:
    return torch.full_like(original, number) if isinstance(original, Tensor) else number


def _knobs(function: Any, losses: Sequence[str]) -> Iterator[Knob]:
    for owner, name, value in _places(function):
        if _OTHER.search(name):
            continue
        write = _writer(owner, name)
        if isinstance(value, MutableMapping) and value and _WEIGHTISH.search(name):
            yield from _mapping_knobs(name, value, losses)
        elif isinstance(value, list | tuple) and len(value) == len(losses) > 1 and _WEIGHTISH.search(name):
            yield from _sequence_knobs(name, value, losses, write)
        elif (
            isinstance(value, Tensor) and value.shape == (len(losses),) and len(losses) > 1 and _WEIGHTISH.search(name)
        ):
            yield from _tensor_knobs(name, value, losses)
        elif _is_number(value) and (loss := _loss_of(name, losses)) is not None:
            yield Knob(loss, name, float(value), write, value)


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain or (
        isinstance(value, Tensor) and value.ndim == 0 and not value.requires_grad and value.is_floating_point()
    )


def _loss_of(name: str, losses: Sequence[str]) -> str | None:
    """The loss that a name such as push_weight, w_push, lambda_push or loss_push_weight speaks of."""
    text = name.strip("_").lower()
    if not _WEIGHTISH.search(text):
        return None
    stem = plain_name(_WEIGHTISH.sub("_", text).strip("_"))
    found = [loss for loss in losses if plain_name(loss) == stem or loss.lower() == stem]
    return found[0] if len(found) == 1 else None


def _mapping_knobs(name: str, values: MutableMapping[Any, Any], losses: Sequence[str]) -> Iterator[Knob]:
    exact = {key: _losses_of(str(key), losses) for key in values}
    taken = {loss for found in exact.values() for loss in found}
    for key, value in list(values.items()):
        found = exact[key]
        if not found and taken:
            # A misspelled key: the loss it was meant for is the nearest without a weight.
            found = difflib.get_close_matches(str(key), [loss for loss in losses if loss not in taken], n=1)
        if len(found) == 1 and _is_number(value):
            yield Knob(found[0], f"{name}[{key!r}]", float(value), functools.partial(values.__setitem__, key), value)


def _sequence_knobs(
    name: str, values: Sequence[Any], losses: Sequence[str], write: Callable[[Any], None]
) -> Iterator[Knob]:
    if not all(_is_number(value) for value in values):
        return
    for index, (loss, value) in enumerate(zip(losses, values, strict=True)):

        def replace(new: Any, index: int = index) -> None:
            changed = list(values)
            changed[index] = new
            write(tuple(changed) if isinstance(values, tuple) else changed)

        yield Knob(loss, f"{name}[{index}]", float(value), replace, value)


def _tensor_knobs(name: str, values: Tensor, losses: Sequence[str]) -> Iterator[Knob]:
    if values.requires_grad or not values.is_floating_point():
        return
    for index, loss in enumerate(losses):

        def replace(new: Any, index: int = index) -> None:
            values.data[index] = new

        yield Knob(loss, f"{name}[{index}]", float(values[index]), replace, float(values[index]))


def _places(item: Any) -> Iterator[tuple[Any, str, Any]]:
    """What a callable names itself: a partial's keywords, a function's closure and globals, an object's attributes."""
    if isinstance(item, functools.partial):
        yield from ((item.keywords, name, value) for name, value in item.keywords.items())
    elif isinstance(item, FunctionType):
        yield from named_values(item)
    elif not isinstance(item, MethodType) and not type(item).__module__.startswith("torch."):
        yield from _attributes(item)


def _attributes(item: Any) -> Iterator[tuple[Any, str, Any]]:
    """The attributes of an object, its buffers, and those that its classes hold for all objects."""
    own = dict(getattr(item, "__dict__", {}))
    own |= dict(item.named_buffers(recurse=False)) if isinstance(item, nn.Module) else {}
    yield from ((item, name, value) for name, value in own.items())
    for owner in type(item).__mro__:
        if not owner.__module__.startswith(("torch.", "builtins")):
            yield from ((owner, name, value) for name, value in vars(owner).items() if name not in own)
        own |= vars(owner)


def _writer(owner: Any, name: str) -> Callable[[Any], None]:
    if isinstance(owner, dict):
        return functools.partial(owner.__setitem__, name)
    if type(owner).__name__ == "cell":
        return functools.partial(setattr, owner, "cell_contents")
    return functools.partial(setattr if isinstance(owner, nn.Module | type) else object.__setattr__, owner, name)
