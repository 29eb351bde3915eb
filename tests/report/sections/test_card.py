"""Preset cards on the page: every one is a table, and nothing of its text is lost."""

import re

import pytest

from headwise import presets
from headwise.presets import card
from headwise.report.page.blocks import Table, Text
from headwise.report.sections.card import Prose, card_blocks

NAMES = [name for name in presets.__all__ if name not in ("card", "vq_gan_discriminator")]


@pytest.mark.parametrize("name", NAMES)
def test_every_card_is_a_table(name):
    blocks = card_blocks(card(name))
    table, *_ = [each for each in blocks if isinstance(each, Table)]
    assert table.header[:2] == ["term", "loss"]
    assert all(row[0] and row[1] for row in table.rows)
    html = "".join(block.html(f"k{place}") for place, block in enumerate(blocks))
    shown = set(re.findall(r"[A-Za-z]{4,}", re.sub(r"<[^>]*>", " ", html)))
    assert set(re.findall(r"[A-Za-z]{4,}", card(name))) <= shown


def test_a_cell_goes_on_in_the_next_line_and_text_is_escaped():
    table, prose = card_blocks(
        "Two.\n\n====  =====\nterm  loss\n====  =====\na     one <b>\n      and two\nb     c\n====  =====\n\n"
        "* x ``y<z``\n  more\n* z\n"
    )
    assert isinstance(table, Table)
    assert table.rows == [["a", "one <b> and two"], ["b", "c"]]
    assert table.caption == "Two."
    assert isinstance(prose, Prose)
    assert "<ul><li>x <code>y&lt;z</code> more</li><li>z</li></ul>" in prose.html("k")


@pytest.mark.parametrize("text", ["| a | b |", "===  ===\na\n", "", "=== ==="])
def test_what_is_no_card_stays_as_it_is(text):
    (block,) = card_blocks(text)
    assert isinstance(block, Text)
    assert block.text == text.strip("\n")
