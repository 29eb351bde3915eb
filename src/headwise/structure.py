"""The one way to walk nested outputs, targets, losses and batches, and the one spelling of a place in them.

A structure is made of mappings, lists, tuples, named tuples and dataclasses; tensors and anything else are its leaves.
A place is spelled as one would index it in Python, without quotes around plain keys: ``stacks[0].heatmap``,
``['odd key'].x``, ``[Part.HEAD]``. `headwise.criterion.terms.paths` reads the spelling back.
"""

from __future__ import annotations

import copy
import difflib
import enum
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Key = Hashable
"""A key of a mapping, an index of a list or tuple (never negative), or the name of a field."""

Steps = tuple[Key, ...]
"""Keys from the root of a structure down to one of its nodes."""

Spec = Hashable
"""What a structure is made of but for its tensors: two structures of one spec have their tensors at the same places."""

# What may stand in a pair of brackets: texts in quotes, plain characters, and further brackets, three deep.
_TEXT = r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\""""
_INSIDE = rf"""(?:{_TEXT}|[^\[\]'"])"""
for _ in range(3):
    _INSIDE = rf"""(?:{_TEXT}|[^\[\]'"]|\[{_INSIDE}*\])"""
BRACKET = re.compile(rf"\[\s*({_INSIDE}+?)\s*\]")
"""One pair of brackets of a path."""

_UNREADABLE = re.compile(r"""[\[\]:'"\\]""")
_TEXTS = re.compile(_TEXT)
_PLAIN = re.compile(r"[^\W\d]\w*|\d+")
_NO_SEQUENCE = (str, bytes, bytearray, memoryview, range)


class Spelled(NamedTuple):
    """A key that is neither text nor a number, by how it is spelled (see `shown`)."""

    text: str


def is_spelled(inside: str) -> bool:
    """Whether what stands in brackets can be such a key: no colon outside of texts, which slice channels."""
    return ":" not in _TEXTS.sub("", inside)


def join(prefix: str, key: Key) -> str:
    """The path of a node's part.

    Args:
        prefix: The path of the node; empty for the root.
        key: Of the part.

    Returns:
        The path, as everything prints it and `headwise.criterion.terms.paths.parse` reads it.
    """
    if isinstance(key, str):
        key = str.__str__(key)
        if _PLAIN.fullmatch(key) is None:
            return f"{prefix}[{key!r}]"
        return f"{prefix}.{key}" if prefix else key
    if isinstance(key, int) and not isinstance(key, bool | enum.Enum):
        return f"{prefix}[{int(key)}]"
    return f"{prefix}[{shown(key)}]"


def spell(steps: Iterable[Key]) -> str:
    """The path of a place.

    Args:
        steps: Keys from the root on.

    Returns:
        As `join` writes it.
    """
    path = ""
    for key in steps:
        path = join(path, key)
    return path


def children(node: Any) -> Mapping[Any, Any] | None:
    """The named parts of a structure's node, or None for a leaf."""
    if isinstance(node, Tensor):
        return None
    if isinstance(node, Mapping):
        return node
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    if is_dataclass(node) and not isinstance(node, type):
        return {field.name: getattr(node, field.name) for field in fields(node)}
    if isinstance(node, Sequence) and not isinstance(node, _NO_SEQUENCE):
        return dict(enumerate(node))
    return None


def walk(structure: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a structure, of any kind, with its path, in the structure's order."""
    parts = children(structure)
    if parts is None:
        yield prefix, structure
        return
    for key, node in parts.items():
        yield from walk(node, join(prefix, key))


def leaves(structure: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a structure, with its path, in the structure's order."""
    return ((path, leaf) for path, leaf in walk(structure, prefix) if isinstance(leaf, Tensor))


def by_path(structure: Any, alone: str = "output") -> dict[str, Tensor]:
    """Every tensor of a structure by its path.

    Args:
        structure: The structure.
        alone: What a tensor that is the whole structure is called.

    Returns:
        Path to tensor.
    """
    return {alone: structure} if isinstance(structure, Tensor) else dict(leaves(structure))


def flatten(structure: Any) -> tuple[Spec, list[Tensor]]:
    """Takes a structure apart; quick enough for every step.

    Args:
        structure: The structure.

    Returns:
        What it is made of but for its tensors (their shapes and dtypes included), to be compared and hashed; and the
        tensors in the order of `leaves`.

    Raises:
        ValueError: A part of it holds itself.
    """
    tensors: list[Tensor] = []
    if torch.compiler.is_compiling():  # what could be traced has an end
        return _flatten(structure, tensors), tensors
    try:
        return _flatten(structure, tensors), tensors
    except RecursionError:
        raise ValueError("outputs or targets are nested too deep: a part of them holds itself. Take it out") from None


def _flatten(node: Any, tensors: list[Tensor]) -> Spec:
    if isinstance(node, Tensor):
        tensors.append(node)
        return Tensor
    kind: Any = type(node)
    if kind is dict:
        return dict, tuple(node), _flatten_all(node.values(), tensors)
    if kind is list or kind is tuple:
        return kind, _flatten_all(node, tensors)
    parts = children(node)
    spec: Spec = kind if parts is None else (kind, tuple(parts), _flatten_all(parts.values(), tensors))
    return spec


def _flatten_all(nodes: Iterable[Any], tensors: list[Tensor]) -> tuple[Spec, ...]:
    specs: list[Spec] = []
    for node in nodes:
        if type(node) is Tensor:  # without a call, since it is nearly always one
            tensors.append(node)
            specs.append(Tensor)
        else:
            specs.append(_flatten(node, tensors))
    return tuple(specs)


def child(node: Any, step: Key) -> tuple[Key, Any]:
    """One step down a structure.

    Args:
        node: Where to start.
        step: A key, an index (a negative one counts from the end), a field, or a `Spelled` key. Digits are an index
            too, and an index is a key of digits too, where there is no other of that kind.

    Returns:
        The part's own key, which is the same however the step was written, and the part.

    Raises:
        KeyError: There is no such key, index or field; the message lists what there is.
    """
    parts = children(node)
    if parts is None:
        raise KeyError(f"nothing can be below {describe(node)}, but the path goes on with {shown(step)}.")
    key = _own_key(node, parts, step)
    if key is not None:
        return key[0], parts[key[0]]
    kind = "index" if isinstance(step, int) else "key"
    names = ", ".join(shown(key, bare=True) for key in parts) or "nothing"
    close = difflib.get_close_matches(str(step), [str(key) for key in parts], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise KeyError(f"no {kind} {shown(step)}. Found: {names}.{hint}")


def _own_key(node: Any, parts: Mapping[Any, Any], step: Key) -> tuple[Key] | None:
    """The key that a step means, in a tuple since None may be a key; None where there is none."""
    if isinstance(step, Spelled):
        return next(((key,) for key in parts if not isinstance(key, str) and shown(key) == step.text), None)
    number = int(step) if isinstance(step, str) and step.isascii() and step.isdigit() else step
    same = str(step) if isinstance(step, int) else number
    # A mapping finds 1 also where the key is True or an Enum of integers: what counts is the key that it holds.
    for wanted in (step, same):
        if wanted in parts:
            return (next(key for key in parts if key == wanted),)
    if isinstance(number, int) and not isinstance(node, Mapping):
        # The parts of named tuples and of anything that counts from the end, by their place.
        keys = list(parts) if not is_dataclass(node) else []
        if -len(keys) <= number < len(keys):
            return (keys[number],)
    return None


def get(structure: Any, steps: Iterable[Key]) -> Any:
    """The node that steps lead to.

    Args:
        structure: The structure.
        steps: As in `child`.

    Returns:
        The node.

    Raises:
        KeyError: A step leads nowhere; the message lists what there is.
    """
    for step in steps:
        plain = type(structure) is dict and step in structure
        structure = structure[step] if plain else child(structure, step)[1]
    return structure


def mapped(structure: Any, change: Callable[[Tensor], Any], other: Callable[[Any], Any] | None = None) -> Any:
    """The same structure with changed tensors.

    Args:
        structure: The structure; it stays as it is.
        change: What each tensor becomes.
        other: What any other leaf becomes; by default it is handed on.

    Returns:
        The new structure, of the same types.
    """
    if isinstance(structure, Tensor):
        return change(structure)
    parts = children(structure)
    if parts is None:
        return structure if other is None else other(structure)
    return _rebuilt(structure, {key: mapped(part, change, other) for key, part in parts.items()})


def mapped_by_path(structure: Any, change: Callable[[str, Tensor], Any], prefix: str = "") -> Any:
    """As `mapped`, for a change that depends on where a tensor is.

    Args:
        structure: The structure; it stays as it is.
        change: What each tensor becomes, by its path.
        prefix: The path of the structure itself.

    Returns:
        The new structure, of the same types.
    """
    if isinstance(structure, Tensor):
        return change(prefix, structure)
    parts = children(structure)
    if parts is None:
        return structure
    return _rebuilt(structure, {key: mapped_by_path(part, change, join(prefix, key)) for key, part in parts.items()})


def _rebuilt(node: Any, parts: dict[Any, Any]) -> Any:
    """A node of the same type with other parts."""
    if type(node) is dict:
        return parts
    if isinstance(node, MutableMapping) or (is_dataclass(node) and not isinstance(node, Mapping)):
        twin: Any = copy.copy(node)
        for key, part in parts.items():
            twin.__setitem__(key, part) if isinstance(node, Mapping) else object.__setattr__(twin, key, part)
        return twin
    if isinstance(node, Mapping):
        return type(node)(parts)  # type: ignore[call-arg]
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*parts.values())
    return type(node)(parts.values())


def describe(node: Any) -> str:
    """A node in a message: a tensor by its dtype and shape, anything else by its type and what it is."""
    if isinstance(node, Tensor):
        kind = str(node.dtype).removeprefix("torch.")
        if node.layout != torch.strided:
            return f"a {kind} tensor of {node.layout}"
        return f"a nested {kind} tensor" if node.is_nested else f"a {kind} tensor of shape {tuple(node.shape)}"
    try:
        said = repr(node)
    except Exception:  # of somebody else's class, while we are about to say what is wrong with it
        said = object.__repr__(node)
    return " ".join(f"{type(node).__name__} {said}"[:80].split())


def one_line(error: BaseException) -> str:
    """What an error says, on one line, with its kind where the words alone would not tell."""
    text = " ".join(str(error).split())
    told = text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
    return told[:1000]


def shown(key: Key, *, bare: bool = False) -> str:
    """How a key is spelled.

    Args:
        key: A text, a number, a member of an Enum (its name), or anything else (its repr, in characters that a path
            can hold).
        bare: Texts without quotes.

    Returns:
        Its text.
    """
    if isinstance(key, Spelled):
        return key.text
    if isinstance(key, str):
        return str.__str__(key) if bare else repr(str.__str__(key))
    if isinstance(key, enum.Enum):
        return f"{type(key).__name__}.{key.name}"
    text = repr(key)
    # What could not be read back from between brackets is left out.
    readable = "\n" not in text and BRACKET.fullmatch(f"[{text}]") and is_spelled(text)
    return text if readable else " ".join(_UNREADABLE.sub(" ", text).split()) or type(key).__name__
