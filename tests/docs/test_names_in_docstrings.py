"""A docstring that names something of Headwise names something that exists."""

import importlib
import inspect
import pkgutil
import re

import headwise

ROOMS = (
    "attribution",
    "backward",
    "coders",
    "criterion",
    "data",
    "losses",
    "networks",
    "normalizers",
    "presets",
    "training",
)
_NAMED = re.compile(rf"`(?:headwise\.|hw\.)?((?:{'|'.join(ROOMS)})(?:\.[A-Za-z_][A-Za-z_0-9]*)+)")


def missing_in(text):
    """The names in a text that lead nowhere."""
    return {name for name in _NAMED.findall(text) if not _exists(name)}


def _exists(name):
    room, *rest = name.split(".")
    found = importlib.import_module(f"headwise.{room}")
    if room == "criterion" and hasattr(headwise.Criterion, rest[0]):
        return True  # of a criterion at hand
    for part in rest:
        if inspect.ismodule(found) and not hasattr(found, part):
            try:
                importlib.import_module(f"{found.__name__}.{part}")
            except ImportError:
                return False
        if not hasattr(found, part):
            return part in getattr(found, "__annotations__", {})
        found = getattr(found, part)
    return True


def test_every_name_in_a_docstring_exists():
    missing = {}
    for info in pkgutil.walk_packages(headwise.__path__, "headwise."):
        if info.name == "headwise.__main__":
            continue
        source = inspect.getsource(importlib.import_module(info.name))
        found = missing_in(source)
        if found:
            missing[info.name] = found
    assert not missing


def test_a_name_that_does_not_exist_is_found():
    assert missing_in("Divide by `normalizers.positives`, `losses.dice`.") == {"normalizers.positives"}
