"""Faulty and healthy subjects in the manner of published code: every fault is named, and nobody else is accused."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from headwise.attribution import audit
from headwise.attribution.audit import NOTES
from tests.attribution.audit.corpus import detection, sequences

MANIFEST: dict[str, Any] = json.loads((Path(__file__).parent / "manifest.json").read_text())
FAULTY = [name for name, entry in MANIFEST.items() if entry["expect"] != "healthy"]
OF_THE_SUM = {"sum-mismatch", "dead-loss", "detached-loss"}


def function_of(name):
    module, _, function = name.partition(".")
    return getattr({"detection": detection, "sequences": sequences}[module], function)


def findings(function, **more):
    torch.manual_seed(0)
    return audit(function(**more)).findings


def names(text, name, function):
    """Whether a text names a loss; `push()` is also named by a line inside that function."""
    if not name.endswith("()"):
        return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text) is not None
    inner = getattr(inspect.getmodule(function), name[:-2])
    lines, first = inspect.getsourcelines(inner)
    at = [int(number) for number in re.findall(rf"{Path(inspect.getfile(inner)).name}:(\d+)", text)]
    return any(first <= line < first + len(lines) for line in at)


@pytest.mark.parametrize("name", FAULTY)
def test_the_fault_is_named_and_nobody_else(name):
    entry, function = MANIFEST[name], function_of(name)
    found = findings(function)
    told = [f for f in found if f.kind in entry["kinds"] or "any" in entry["kinds"]]
    assert any(names(f"{f.subject} {f.evidence}", each, function) for f in told for each in entry["names"]), found
    accused = [f for f in found if f.kind in OF_THE_SUM]
    assert not any(names(f.subject, each, function) for f in accused for each in entry.get("innocent", ())), found


@pytest.mark.parametrize("name", MANIFEST)
def test_healthy_and_repaired_code_is_not_accused(name):
    more = {"fixed": True} if name in FAULTY else {}
    assert [f for f in findings(function_of(name), **more) if f.kind not in NOTES] == []
