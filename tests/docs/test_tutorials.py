"""The notebooks of the site: every cell runs, and none holds an output, so that what is shown was run for the site."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells_of(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def values_of(path: Path) -> list[Any]:
    """Runs the cells as a kernel would, and gives the value of each that ends in an expression."""
    names: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for number, cell in enumerate(cells_of(path)):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.name}, cell {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            found.append(eval(compile(ast.Expression(last.value), f"{path.name}, cell {number}", "eval"), names))
    return [each for each in found if each is not None]


def test_there_are_three_and_the_site_lists_them():
    index = (FOLDER.parent / "index.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 3
    assert all(f"tutorials/{path.stem}\n" in index for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run_and_hold_no_outputs(path, monkeypatch):
    plots = pytest.importorskip("matplotlib.pyplot")
    pytest.importorskip("sklearn")
    plots.switch_backend("Agg")
    monkeypatch.setattr(plots, "show", lambda: plots.close("all"))
    with torch.random.fork_rng():
        shown = values_of(path)
    assert all(hasattr(each, "_repr_html_") for each in shown)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells_of(path))
