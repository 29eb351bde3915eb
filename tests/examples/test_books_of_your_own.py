"""The examples on networks of one's own: at most ten changed lines, the same training, and what the docs say."""

from __future__ import annotations

import difflib
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "your-own-network.md").read_text(encoding="utf-8")
MARK = re.compile(r"  # headwise(?:  # fmt: skip)?$")
NEEDS = {
    "detector": "torchvision",
    "segmenter": "torchvision",
    "two_bert_heads": "transformers",
    "three_outputs": "torch",
}
AFTER = {
    "detector": "books_of_a_detector",
    "segmenter": "books_of_a_segmenter",
    "two_bert_heads": "books_of_two_bert_heads",
    "three_outputs": "books_of_three_outputs",
}
each_example = pytest.mark.parametrize("name", NEEDS)


def lines_of(path: Path) -> list[str]:
    """The lines of code below the module's docstring, blank ones left out."""
    code = path.read_text(encoding="utf-8").split('"""\n', maxsplit=1)[1]
    return [line for line in code.splitlines() if line.strip()]


def changes_of(name: str) -> tuple[list[str], list[str]]:
    """The changed lines in order, with + and -, and the lines of the script as it was."""
    before, now = lines_of(ROOT / f"examples/before/{name}.py"), lines_of(ROOT / f"examples/{AFTER[name]}.py")
    changes = list(difflib.unified_diff(before, now, n=0, lineterm=""))[2:]  # below the names of the files
    return [line for line in changes if not line.startswith("@@")], before


def table_of(text: str) -> dict[str, list[float]]:
    """The numbers of printed books, by row."""
    rows = [line.replace("%", "").split() for line in text[text.index("\nterm") :].splitlines()[2:] if line.strip()]
    return {row[0]: [float(word) for word in row[1:] if word != "yes"] for row in rows}


def told(name: str) -> tuple[list[str], str]:
    """The diff and the table that the page shows of an example."""
    section = PAGE[PAGE.index(f"(../examples/{AFTER[name]}.py)") :]
    found = re.search(r"```diff\n(.*?)```\n.*?```text\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1].splitlines(), found[2]


@each_example
def test_at_most_ten_lines_are_changed_and_marked(name):
    changes, _ = changes_of(name)
    added, removed = ([line[1:] for line in changes if line[0] == sign] for sign in "+-")
    assert 0 < len(added) <= 10
    assert len(removed) <= 10
    assert all(MARK.search(line) for line in added)
    marked = [line for line in lines_of(ROOT / f"examples/{AFTER[name]}.py") if "# headwise" in line]
    assert sorted(marked) == sorted(added)


@each_example
def test_the_page_shows_the_changes(name):
    changes, before = changes_of(name)
    shown, _ = told(name)
    assert [line for line in shown if line[0] != " "] == [MARK.sub("", line) for line in changes]
    kept = [line[1:] for line in shown if line[0] == " "]
    assert kept
    assert all(line in before for line in kept)


@each_example
def test_example_trains_as_before_and_prints_the_books_of_the_page(name, capsys):
    pytest.importorskip(NEEDS[name], reason=f"pip install {NEEDS[name]}")
    runpy.run_path(str(ROOT / f"examples/before/{name}.py"))["main"]()
    before = capsys.readouterr().out
    runpy.run_path(str(ROOT / f"examples/{AFTER[name]}.py"))["main"]()
    now = capsys.readouterr().out
    losses, expected = (re.findall(r"^step \d: loss ([\d.]+)$", text, re.MULTILINE) for text in (now, before))
    assert [float(loss) for loss in losses] == pytest.approx([float(loss) for loss in expected], rel=2e-4)
    assert len(losses) == 3
    found, shown = table_of(now), table_of("\n" + told(name)[1])
    assert list(found) == list(shown)
    for row, numbers in shown.items():
        assert found[row] == pytest.approx(numbers, rel=0.02, abs=0.11)  # a share is printed to 0.1
