"""Calls of backward that are one place: in the branches of one ``if``, where they differ in how one loss is called.

Training code that runs with a loss scale or without has ``scaler.scale(loss).backward()`` in one branch, and
``loss.backward()`` in the other.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Hashable, Iterator
from functools import lru_cache
from types import FrameType

from torch import Tensor


def place_key(frame: FrameType) -> Hashable:
    """The place of a call of backward.

    Args:
        frame: The frame that calls it.

    Returns:
        The file and line; of a call in a branch, the ``if`` and the variables in the call that hold tensors.
    """
    file, line = frame.f_code.co_filename, frame.f_lineno
    branch = _branches(file).get(line)
    if branch is None:
        return file, line
    top, identifiers = branch
    held = {**frame.f_globals, **getattr(frame.f_locals.get("self"), "__dict__", {}), **frame.f_locals}
    losses = frozenset(name for name in identifiers if isinstance(held.get(name), Tensor))
    return (file, top, losses) if losses else (file, line)


@lru_cache(maxsize=64)
def _branches(file: str) -> dict[int, tuple[int, frozenset[str]]]:
    """Per line with a call of backward in a branch: the line of the outermost ``if``, and what the call names."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[int, tuple[int, frozenset[str]]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and node.orelse:
            for call in _backward_calls(node):
                for line in range(call.lineno, (call.end_lineno or call.lineno) + 1):
                    found.setdefault(line, (node.lineno, _identifiers(call)))
    return found


def _backward_calls(node: ast.If) -> Iterator[ast.Call]:
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and getattr(each.func, "attr", "").endswith("backward"):
            yield each


def _identifiers(call: ast.Call) -> frozenset[str]:
    named = (each.id if isinstance(each, ast.Name) else getattr(each, "attr", "") for each in ast.walk(call))
    return frozenset(filter(None, named))
