"""What code calls the result of an expression, read from its source: the target, the key, the keyword."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FrameType

RETURNED = "return"
"""The result goes to the caller, under whatever name that gives it; no name of a variable is spelled so."""

_Span = tuple[int, int, int, int]
_IN_VARIABLE = "\0"
"""Before the name of a variable whose text is the name: ``losses[task] = ...``."""
_LONGEST = 40


def text_of_result(frame: FrameType) -> str:
    """The expression that a frame is computing, as it is written; empty where it is long, or not to be had."""
    span = _span_at(frame.f_code, frame.f_lasti)
    if span is None or span[0] != span[2]:
        return ""
    line = linecache.getline(frame.f_code.co_filename, span[0]).encode()[span[1] : span[3]].decode(errors="ignore")
    return line if len(line) <= _LONGEST else ""


def name_of_result(frame: FrameType) -> str | None:
    """The name of what a frame is computing.

    Args:
        frame: A frame that is running a call, or an operation.

    Returns:
        The variable, attribute or key of a dict that the result goes to; `RETURNED` where it is returned; None where
        it is used at once, or the source is not to be had.
    """
    span = _span_at(frame.f_code, frame.f_lasti)
    name = None if span is None else _names_of(frame.f_code.co_filename).get(span)
    if name is None or not name.startswith(_IN_VARIABLE):
        return name
    variable = name[len(_IN_VARIABLE) :]
    key = frame.f_locals.get(variable, frame.f_globals.get(variable))
    return key if _is_name(key) else None


@lru_cache(maxsize=64)
def loop_variables(file: str) -> frozenset[str]:
    """The variables of a file that loops give their values to: what they hold is held elsewhere, by its own name.

    Args:
        file: The path.

    Returns:
        The names; none where the source is not to be had.
    """
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return frozenset()
    loops = [node.target for node in ast.walk(tree) if isinstance(node, ast.For | ast.AsyncFor)]
    return frozenset(each.id for target in loops for each in ast.walk(target) if isinstance(each, ast.Name))


@lru_cache(maxsize=4096)
def _span_at(code: CodeType, instruction: int) -> _Span | None:
    for number, (line, end_line, column, end_column) in enumerate(code.co_positions()):
        if number == instruction // 2:
            if line is None or end_line is None or column is None or end_column is None:
                return None
            return line, column, end_line, end_column
    return None


@lru_cache(maxsize=64)
def _names_of(file: str) -> dict[_Span, str]:
    """The names of all results in a file, by where the expressions stand."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[_Span, str] = {}
    for node in ast.walk(tree):
        for value, name in _given(node):
            for part in _results(value):
                span = (part.lineno, part.col_offset, part.end_lineno or 0, part.end_col_offset or 0)
                found[span] = name
        if isinstance(node, ast.AugAssign) and (target := _target(node.target)) is not None:
            # The operation spans the whole statement.
            found[node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0] = target
    return found


def _given(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """The expressions that a piece of syntax gives a name."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _assigned(target, node.value)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield from _assigned(node.target, node.value)
    elif isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        yield from (
            (value, str(key.value)) for key, value in pairs if isinstance(key, ast.Constant) and _is_name(key.value)
        )
    elif isinstance(node, ast.Call):
        yield from ((each.value, each.arg) for each in node.keywords if each.arg and _calls_dict(node))
    elif (isinstance(node, ast.Return) and node.value is not None) or isinstance(node, ast.Lambda):
        body = node.value if isinstance(node, ast.Return) else node.body
        if body is not None:
            yield body, RETURNED


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, str]]:
    if isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
        if len(target.elts) == len(value.elts):
            for one, other in zip(target.elts, value.elts, strict=True):
                yield from _assigned(one, other)
    elif (name := _target(target)) is not None:
        yield value, name


def _target(target: ast.expr) -> str | None:
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Attribute):
        return target.attr
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Name):
        return _IN_VARIABLE + target.slice.id
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        key = target.slice.value
        if _is_name(key):
            return str(key)
        name = _target(target.value)
        return f"{name}[{key}]" if name is not None and isinstance(key, int) else None
    return None


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _calls_dict(call: ast.Call) -> bool:
    """Whether keywords of a call become keys or fields: ``dict(...)``, and classes by their capital."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name == "dict" or name[:1].isupper()


def _results(value: ast.expr) -> Iterator[ast.expr]:
    """The expressions that may be the value of one: both branches of a conditional."""
    if isinstance(value, ast.IfExp):
        yield from _results(value.body)
        yield from _results(value.orelse)
    else:
        yield value
