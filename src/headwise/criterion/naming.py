"""Functions by name: how a configuration refers to losses, normalizers and a user's own functions."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from headwise.declaration import unwrapped

Allow = bool | str | Collection[str]


def told_function(function: Callable[..., Any]) -> str:
    """What a reader knows a function by.

    Args:
        function: Any callable.

    Returns:
        Its name, with what `functools.partial` fixed in brackets; of an object without a name what it says of itself,
        in one line.
    """
    function, fixed = unwrapped(function)
    name = getattr(function, "__name__", "") or " ".join(repr(function).split())
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in fixed.items())})" if fixed else name


def function_to_config(where: str, function: Callable[..., Any], room: ModuleType) -> Any:
    """Names a function, with the hyper-parameters that `functools.partial` fixed.

    Args:
        where: What it belongs to, for the message.
        function: The function.
        room: The room whose public functions go by their bare name.

    Returns:
        The name, or a dict with the name and the hyper-parameters.

    Raises:
        ValueError: It could not be found again by a name.
    """
    hyper: dict[str, Any] = {}
    while isinstance(function, partial):
        if function.args:
            raise ValueError(f"{where}: {function} fixes positional arguments; a configuration holds keywords only")
        hyper, function = {**function.keywords, **hyper}, function.func
    name = getattr(function, "__name__", "")
    if getattr(room, name, None) is function and name in room.__all__:
        return {"name": name, **hyper} if hyper else name
    module = getattr(function, "__module__", "")
    if not name or "<" in getattr(function, "__qualname__", "<") or module in ("", "__main__"):
        raise ValueError(
            f"{where}: {function!r} cannot be written to a configuration, for it cannot be found by a name. "
            "Define it at the top of an importable module, hyper-parameters by functools.partial"
        )
    found = f"{module}:{function.__qualname__}"
    return {"name": found, **hyper} if hyper else found


def function_from_config(where: str, given: Any, room: ModuleType, role: str, allow: Allow = ()) -> Callable[..., Any]:
    """Finds a function by what `function_to_config` wrote.

    Args:
        where: What it belongs to, for the message.
        given: The name, or a dict with the name and hyper-parameters.
        room: The room whose public functions go by their bare name.
        role: "loss" or "normalizer", for the message.
        allow: The modules from which functions may be imported; True for all.

    Returns:
        The function, hyper-parameters fixed.

    Raises:
        ValueError: There is no such function, or it has no such hyper-parameter.
    """
    hyper: dict[str, Any] = {}
    if isinstance(given, Mapping):
        check_name = given.get("name")
        hyper, given = {key: value for key, value in given.items() if key != "name"}, check_name
    if not isinstance(given, str):
        raise ValueError(f"{where}: a {role} is a name, or a dict with a name and hyper-parameters; found {given!r}")
    if ":" in given:
        function = import_function(where, given, role, allow)
    elif given in room.__all__:
        function = getattr(room, given)
    else:
        close = difflib.get_close_matches(given, room.__all__, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"{where}: no {role} {given!r}. Known: {', '.join(room.__all__)}, or 'package.module:function'.{hint}"
        )
    _check_hyper_parameters(f"{where}: {role} {given!r}", function, hyper)
    return partial(function, **hyper) if hyper else function


def _check_hyper_parameters(where: str, function: Callable[..., Any], hyper: Mapping[str, Any]) -> None:
    """Refuses a hyper-parameter that the function does not have; what has no signature is left to the call."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return
    known = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY] or [each.name for each in parameters]
    for key in hyper:
        if key not in {each.name for each in parameters}:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{where}: unknown key {key!r}. Known: {', '.join(known) or 'none'}.{hint}")


def import_function(where: str, name: str, role: str, allow: Allow) -> Callable[..., Any]:
    """Imports a user's function, if the reader of the configuration allows it.

    Args:
        where: What it belongs to, for the message.
        name: ``package.module:function``.
        role: What it is, for the message.
        allow: The modules that may be imported, with what is in them; True for all.

    Returns:
        The function.

    Raises:
        ValueError: It is not allowed, cannot be imported, or is no function.
    """
    module, _, function = name.partition(":")
    modules = (allow,) if isinstance(allow, str) else () if isinstance(allow, bool) else tuple(allow)
    if not module or module.startswith("."):
        raise ValueError(f"{where}: the {role} {name!r} names no module. Write 'package.module:function'")
    if allow is not True and not any(f"{module}.".startswith(f"{each}.") for each in modules):
        raise ValueError(
            f"{where}: the {role} {name!r} cannot be imported: a configuration runs code of others only where its "
            f"reader says so. If you trust it, pass allow=[{module!r}]"
        )
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{where}: the {role} {name!r} cannot be imported: {told}. Check the name and sys.path"
        ) from None
    if not callable(found):
        raise ValueError(f"{where}: the {role} {name!r} is no function; found {found!r}")
    return found  # type: ignore[no-any-return]
