"""Mask expressions: Boolean combinations of targets, such as ``valid & text_region`` or ``~(crowd | outside)``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from headwise.criterion.terms.paths import Path, parse
from headwise.masks import as_mask
from headwise.structure import BRACKET

_TOKEN = re.compile(rf"\s*([&|~()]|(?:[^\s&|~()\[\]]|{BRACKET.pattern})+)")


@dataclass(frozen=True)
class Mask:
    """A parsed mask expression in postfix order: paths, and the operators ``&``, ``|``, ``~``."""

    text: str
    postfix: tuple[Path | str, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The targets that the expression reads."""
        return tuple(item for item in self.postfix if isinstance(item, Path))

    def evaluate(self, read: Callable[[Path], Tensor], term: str) -> Tensor:
        """The mask as one Boolean tensor.

        Args:
            read: Gives the tensor that a path names.
            term: Whose mask it is, for the error.

        Returns:
            The bool mask; a target of another dtype means ``target > 0``.

        Raises:
            ValueError: Two operands have shapes that differ, or one is complex.
        """
        stack: list[Tensor] = []
        for item in self.postfix:
            if isinstance(item, Path):
                found = read(item)
                if found.is_complex():
                    raise ValueError(
                        f"term {term!r}: mask {self.text!r}: a mask is real; found {item} of {found.dtype}. Give its "
                        "abs(), or its real part"
                    )
                stack.append(as_mask(found))
            elif item == "~":
                stack.append(~stack.pop())
            else:
                right, left = stack.pop(), stack.pop()
                if left.shape != right.shape:
                    raise ValueError(
                        f"term {term!r}: both sides of {item!r} in mask {self.text!r} must have one shape; "
                        f"found {tuple(left.shape)} and {tuple(right.shape)}"
                    )
                stack.append(left & right if item == "&" else left | right)
        return stack[0]


@lru_cache(maxsize=1024)
def parse_mask(text: str) -> Mask:
    """Parses a mask expression.

    Args:
        text: Paths joined by ``&``, ``|``, ``~`` and parentheses; ``~`` binds closest, then ``&``, then ``|``.

    Returns:
        The parsed expression.

    Raises:
        ValueError: The text is no such expression.
    """
    tokens = _tokens(text)
    postfix: list[Path | str] = []
    position = _or(text, tokens, 0, postfix)
    if position != len(tokens):
        raise _unreadable(text, f"{tokens[position]!r} stands where the expression should end")
    return Mask(text, tuple(postfix))


def _tokens(text: str) -> list[str]:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"a mask is a non-empty expression such as 'valid & text_region'; found {text!r}")
    tokens, position, stripped = [], 0, text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if not match:
            raise _unreadable(text, f"cannot read {stripped[position:]!r}")
        tokens.append(match.group(1))
        position = match.end()
    return tokens


def _or(text: str, tokens: list[str], position: int, postfix: list[Path | str]) -> int:
    position = _and(text, tokens, position, postfix)
    while position < len(tokens) and tokens[position] == "|":
        position = _and(text, tokens, position + 1, postfix)
        postfix.append("|")
    return position


def _and(text: str, tokens: list[str], position: int, postfix: list[Path | str]) -> int:
    position = _not(text, tokens, position, postfix)
    while position < len(tokens) and tokens[position] == "&":
        position = _not(text, tokens, position + 1, postfix)
        postfix.append("&")
    return position


def _not(text: str, tokens: list[str], position: int, postfix: list[Path | str]) -> int:
    if position >= len(tokens):
        raise _unreadable(text, "an operand is missing at the end")
    token = tokens[position]
    if token == "~":
        position = _not(text, tokens, position + 1, postfix)
        postfix.append("~")
        return position
    if token == "(":
        position = _or(text, tokens, position + 1, postfix)
        if position >= len(tokens) or tokens[position] != ")":
            raise _unreadable(text, "a closing parenthesis is missing")
        return position + 1
    if token in "&|)":
        raise _unreadable(text, f"an operand is missing before {token!r}")
    postfix.append(parse(token))
    return position + 1


def _unreadable(text: str, why: str) -> ValueError:
    return ValueError(f"mask {text!r}: {why}. Write targets joined by &, |, ~ and parentheses")
