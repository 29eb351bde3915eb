"""Every Python block of README and docs runs; the blocks of one file share their names, in order.

A ```text block right after a ```python block is what that block prints, to the letter. A block is passed over only
where an HTML comment in front of it says why: <!-- not run: needs two machines -->.
"""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]*?\w[^\n]*?) -->\n)?^```python\n(?P<code>.*?)^```$"
    r"(?:\n+^```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    code: str
    printed: str | None
    reason: str | None
    line: int


def blocks_of(text: str) -> list[Block]:
    return [
        Block(found["code"], found["printed"], found["reason"], text[: found.start("code")].count("\n") + 1)
        for found in _BLOCK.finditer(text)
    ]


def run_blocks(blocks: list[Block], name: str) -> None:
    namespace: dict[str, object] = {"__name__": "documentation"}
    for block in blocks:
        if block.reason is not None:
            continue
        out = io.StringIO()
        source = "\n" * (block.line - 1) + block.code  # so that a traceback has the file's line numbers
        with contextlib.redirect_stdout(out):
            exec(compile(source, name, "exec"), namespace)
        if block.printed is not None:
            assert out.getvalue() == block.printed, f"{name}, line {block.line}: printed something else"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_run_and_print_what_they_say(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(blocks_of(path.read_text(encoding="utf-8")), path.name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_block_escapes(path):
    text = path.read_text(encoding="utf-8")
    assert len(blocks_of(text)) == len(re.findall(r"^ *```+ *(?:python|py|pycon)\b", text, re.MULTILINE))


def test_the_harness_can_fail():
    page = "```python\na = 1\n```\n\ntext\n\n```python\nprint(a + 1)\n```\n\n```text\n2\n```\n"
    blocks = blocks_of(page)
    assert [block.line for block in blocks] == [2, 8]
    run_blocks(blocks, "page")
    with pytest.raises(AssertionError, match="page, line 8: printed something else"):
        run_blocks(blocks_of(page.replace("text\n2", "text\n3")), "page")
    with pytest.raises(ZeroDivisionError):
        run_blocks(blocks_of("```python\n1 / 0\n```\n"), "page")
    skipped = blocks_of("<!-- not run: it divides -->\n```python\n1 / 0\n```\n")
    assert [block.reason for block in skipped] == ["it divides"]
    run_blocks(skipped, "page")
    assert blocks_of("<!-- not run: -->\n```python\n1 / 0\n```\n")[0].reason is None
