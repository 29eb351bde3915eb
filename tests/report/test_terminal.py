"""Tables in a terminal."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise.report.terminal import Cell, colors_wanted, render_table

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def test_a_small_table_by_hand():
    table = render_table(
        ["term", "value", "finite"], [["sin", 0.123456, True], ["radius", None, False]], title="step 7", color=False
    )
    assert table.splitlines() == [
        "step 7",
        "term     value  finite",
        "------  ------  ------",
        "sin     0.1235  yes",
        "radius       -  no",
    ]


def test_many_terms_fit_100_columns_and_lose_nothing():
    names = [f"stack_{i}.top_left_heatmap" for i in range(24)]
    rows = [[name, *[round(0.01 * i * j, 4) for j in range(24)]] for i, name in enumerate(names)]
    table = render_table(["term", *names], rows, title="cosines", color=False)
    assert max(map(len, table.splitlines())) <= 100
    words = table.split()
    for name in names:
        assert words.count(name) > 1
    assert all(f"{value:.4g}" in words for row in rows for value in row[1:])


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 9).flatmap(
        lambda k: st.tuples(
            st.lists(st.text(max_size=120), min_size=k, max_size=k),
            st.lists(
                st.lists(
                    st.one_of(st.text(max_size=90), st.floats(), st.none(), st.booleans()), min_size=k, max_size=k
                ),
                max_size=5,
            ),
        )
    ),
    st.integers(40, 100),
)
def test_no_line_is_wider_than_asked_or_holds_control_characters(table, width):
    import unicodedata

    header, rows = table
    for line in render_table(header, rows, width=width, color=False, title="x" * 300).split("\n"):
        cells = sum(
            0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line
        )
        assert cells <= width
        assert all(c.isprintable() for c in line)


def test_color_is_on_top_of_the_same_text():
    rows = [["sin", Cell(float("nan"), "bad")], ["cos", Cell(0.5, "good")]]
    plain = render_table(["term", "value"], rows, color=False)
    painted = render_table(["term", "value"], rows, color=True)
    assert "\x1b" not in plain
    assert "\x1b[31;1mNaN\x1b[0m" in painted
    assert ANSI.sub("", painted) == plain


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_color_only_on_a_terminal_that_wants_it(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert colors_wanted(Screen())
    assert not colors_wanted(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not colors_wanted(Screen())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colors_wanted(Screen())


def test_rows_that_do_not_fit_the_header_are_an_error():
    with pytest.raises(ValueError, match="row 1 has 1 values, the header 2 names"):
        render_table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(ValueError, match="at least 40"):
        render_table(["a"], [], width=20)
