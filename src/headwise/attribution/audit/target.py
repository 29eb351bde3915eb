"""From ``module:function`` or ``file.py:function`` to what the function returns."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from headwise.attribution.audit.code.guard import user_code
from headwise.attribution.audit.report import AuditReport
from headwise.attribution.audit.run import audit


def audit_target(target: str, *, strict: bool = False) -> AuditReport:
    """Load a target and audit what it returns.

    Args:
        target: ``module:function`` or ``file.py:function``.
        strict: Whether notes set the exit code.

    Returns:
        The report.

    Raises:
        ValueError: It could not run, whatever the reason.
    """
    subject = load_target(target)
    try:
        return audit(subject, strict=strict)
    except ValueError:
        raise
    except Exception as error:
        # No fault of the target may look like a finding to whoever reads the exit code.
        raise ValueError(f"audit: {target} could not be audited: {type(error).__name__}: {error}") from error


def load_target(target: str) -> Any:
    """Import and call a target.

    Args:
        target: ``module:function`` or ``file.py:function``; the function takes no argument.

    Returns:
        What it returns: a subject.

    Raises:
        ValueError: The target is not of this form, or is not found, or raises.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ValueError(f"audit: target {target!r} is not module:function or file.py:function.")
    function = _find(_load(place), place, name)
    with user_code(f"{name}()"):
        return function()


def _find(module: ModuleType, place: str, name: str) -> Callable[[], Any]:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        own = [key for key in known if getattr(vars(module)[key], "__module__", "") == module.__name__]
        raise ValueError(f"audit: {place} has no function {name!r}. It has: {', '.join(own) or 'none'}.")
    function: Callable[[], Any] = found
    return function


def _load(place: str) -> ModuleType:
    if place.endswith(".py") or "/" in place:
        return _load_file(Path(place))
    with _importable(Path.cwd()):
        try:
            if importlib.util.find_spec(place) is None:
                raise ValueError(
                    f"audit: there is no module {place!r}. Give a module on the path, or file.py:function."
                )
        except ModuleNotFoundError as error:
            raise ValueError(f"audit: there is no module {place!r} ({error}).") from None
        with user_code(f"importing {place}"):
            return importlib.import_module(place)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"audit: there is no file {path}. Give the path of a Python file, or module:function.")
    # A name of its own, so that two files of one name, or a package of that name, do not meet.
    name = f"headwise_audit_target_{path.stem}_{abs(hash(str(path.resolve()))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"audit: {path} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    with _importable(path.resolve().parent):
        sys.modules[name] = module  # dataclasses and pickle look their module up
        with user_code(f"importing {path.name}"):
            spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the target import what lies beside it, during its import and afterwards."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    yield
