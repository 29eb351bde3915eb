"""The fields of a configuration: what each is, its range, and a value for one, from text, JSON, YAML or Python."""

from __future__ import annotations

import inspect
import math
import re
import types
from ast import literal_eval
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

NOTHING = ("none", "null", "random", "")
"""Words that mean no value, where a field may have none; "random" is what a network without weights starts from."""


class Range(NamedTuple):
    """The numbers that a field may hold.

    Args:
        least: of them.
        most: of them.
        above: whether `least` itself is none of them.
    """

    least: float
    most: float = math.inf
    above: bool = False

    def holds(self, number: float) -> bool:
        """Whether a number is one of them."""
        return (self.least < number if self.above else self.least <= number) and number <= self.most

    def __str__(self) -> str:
        start = f"{'above' if self.above else 'at least'} {self.least:g}"
        return start if self.most == math.inf else f"{start} and at most {self.most:g}"


Natural = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]


class Field(NamedTuple):
    """A field of a configuration.

    Args:
        name: of the field.
        kind: its type, with its range where it has one.
        default: the class's own.
        help: what it is, from the class's docstring.
    """

    name: str
    kind: Any
    default: Any
    help: str


def list_fields(configuration: type) -> list[Field]:
    """Return the fields of a configuration with what its docstrings say about them.

    Args:
        configuration: a dataclass; each class of its line describes its own fields under ``Args:``.

    Returns:
        The fields in their order.
    """
    kinds = get_type_hints(configuration, include_extras=True)
    told: dict[str, str] = {}
    for base in reversed(configuration.__mro__):
        told.update(_described(base.__doc__ or ""))
    return [
        Field(each.name, kinds[each.name], None if each.default is MISSING else each.default, told.get(each.name, ""))
        for each in fields(configuration)
    ]


def _described(docstring: str) -> Iterator[tuple[str, str]]:
    """Return the names and texts of an ``Args:`` section."""
    section = re.split(r"^\w.*:$", inspect.cleandoc(docstring).partition("\nArgs:\n")[2], maxsplit=1, flags=re.M)[0]
    for name, text in re.findall(r"^    (\w+): ((?:.|\n(?!    \w))*)", section, flags=re.M):
        yield name, " ".join(text.split())


def read_fields(configuration: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return values as their fields want them.

    Args:
        configuration: a dataclass.
        values: by name; text as well as numbers, lists as well as tuples.
        where: the file, recipe or option that they are from, for the error.

    Returns:
        The same names with values of the fields' types.

    Raises:
        ValueError: a name that is no field, or a value of another kind.
    """
    kinds = {field.name: field.kind for field in list_fields(configuration)}
    for name in sorted(values.keys() - kinds):
        near = get_close_matches(str(name), kinds, 3)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(sorted(kinds))}."
        raise ValueError(f"{where}: no argument {name!r}. {hint}")
    return {name: _read(value, kinds[name], f"{where}: {name}") for name, value in values.items()}


def check_ranges(configuration: type, values: Mapping[str, Any]) -> None:
    """Refuse numbers out of their fields' ranges.

    Args:
        configuration: a dataclass, whose numbers with a range are of type `Count`, `Share` and the like. A list of such
            numbers must hold one.
        values: by name.

    Raises:
        ValueError: the first that is out of its range.
    """
    for name, kind in get_type_hints(configuration, include_extras=True).items():
        wrong = _out_of_range(values[name], kind)
        if wrong is not None:
            raise ValueError(f"{name} is {values[name]}, but must be {wrong}.")


def _out_of_range(value: Any, kind: Any) -> str | None:
    """Return what a value should be; None where it is."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return None if inner[1].holds(value) else str(inner[1])
    if origin in (Union, types.UnionType):
        return None if value is None else next(filter(None, (_out_of_range(value, each) for each in inner)), None)
    if origin is not tuple:
        return None
    if inner[-1] is Ellipsis:
        if not value and get_origin(inner[0]) is Annotated:
            return "one number or more"
        inner = (inner[0],) * len(value)
    wrong = next(filter(None, map(_out_of_range, value, inner)), None)
    return wrong and f"numbers {wrong}"


def _read(value: Any, kind: Any, where: str) -> Any:
    try:
        return _as(value, kind)
    except _UNFIT:
        raise ValueError(f"{where} is {describe(kind)}, found {value!r}.") from None


def describe(kind: Any) -> str:
    """Return a type in words.

    Args:
        kind: of a field.

    Returns:
        The words, such as "a whole number, at least 1".
    """
    if get_origin(kind) is Annotated:
        return f"{describe(get_args(kind)[0])}, {get_args(kind)[1]}"
    if get_origin(kind) is Literal:
        return " or ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join("none" if one is type(None) else describe(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        return f"a list of {describe(inner[0])}" if inner[-1] is Ellipsis else f"{len(inner)} of {describe(inner[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[kind]


def _as(value: Any, kind: Any) -> Any:
    """Return a value of a type; raise some error where it is none."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _as(value, inner[0])
    if origin is Literal:
        return {str(choice): choice for choice in inner}[str(value)]
    if origin in (Union, types.UnionType):
        return _as_any(value, inner)
    if origin is tuple:
        parts = _parts(value)
        if inner[-1] is Ellipsis:
            return tuple(_as(part, inner[0]) for part in parts)
        return tuple(_as(part, one) for part, one in zip(parts, inner, strict=True))
    return _SCALARS[kind](value)


def _as_any(value: Any, kinds: tuple[Any, ...]) -> Any:
    if type(None) in kinds and (value is None or (isinstance(value, str) and value.lower() in NOTHING)):
        return None
    for kind in kinds:
        try:
            return _as(value, kind)
        except _UNFIT:
            continue
    raise ValueError


def _parts(value: Any) -> list[Any]:
    """Return the parts of a list, or of a text such as "0.6, 0.7" or "[[1, 2], [3, 4]]"."""
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str):
        raise TypeError
    text = value.strip()
    if text[:1] not in ("[", "("):
        parts = [part.strip() for part in text.removesuffix(",").split(",")] if text else []
        if not all(parts):
            raise ValueError
        return parts
    return list(literal_eval(text))


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, int):
        return value
    number = float(value)
    if number != int(number) or abs(number) > 2**53:
        raise ValueError
    return int(number)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _flag(value: Any) -> bool:
    return {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}[
        str(value).lower()
    ]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_SCALARS = {int: _whole, float: _number, bool: _flag, str: _text}
_UNFIT = (ValueError, TypeError, KeyError, OverflowError, SyntaxError)
