"""Scripts in manners of their own under `headwise run`: names, weights, the factor divided out, and what is said."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from headwise.attribution.apart.naming.spelled import loop_variables
from headwise.attribution.ledger.books import Books, TermBooks
from headwise.attribution.run.script import ScriptBooks
from tests.attribution.odd_scripts import SCRIPTS


def run_script(script: Path, every: int, on_booked: Callable[[int, Books], None]) -> ScriptBooks:
    linecache.checkcache(str(script))
    loop_variables.cache_clear()
    with ScriptBooks(every, None, on_booked) as books:
        main = ModuleType("__main__")
        exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), main.__dict__)
    return books


def booked(script: Path) -> tuple[ScriptBooks, list[Books]]:
    found: list[Books] = []
    return run_script(script, 1, lambda step, books: found.append(books)), found


@pytest.mark.parametrize("name", SCRIPTS)
def test_names_weights_factor_and_what_is_said(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = SCRIPTS[name]
    (script := tmp_path / f"{name}.py").write_text(odd.text(), encoding="utf-8")
    run, steps = booked(script)
    terms: dict[str, TermBooks] = {}
    for books in steps:
        terms = {**dict(books), **terms}
        assert books.balanced == ("unbooked" not in odd.weights), str(books)
        assert books.unbooked.is_nothing, str(books)
    assert {term: each.weight for term, each in terms.items()} == pytest.approx(odd.weights, rel=1e-5), str(steps[-1])
    assert all(books.factor.value == odd.factor for books in steps)
    told = run.told()
    assert len(told) == len(odd.told), told
    assert all(any(words in line for line in told) for words in odd.told), told


def test_a_factor_that_is_divided_out_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (script := tmp_path / "divided.py").write_text(SCRIPTS["in_place_and_divided_at_last"].text(), encoding="utf-8")
    _, steps = booked(script)
    assert str(steps[-1]).splitlines()[0] == "step 3 (local, at outputs, loop's factor 0.25 divided out)"
