"""What is drawn of long curves."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise.report.figures.sampling import moving_mean, rows_to_draw

values = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=32))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4).flatmap(lambda k: st.lists(st.tuples(*[values] * k), min_size=1, max_size=400)))
def test_extremes_ends_and_order_are_kept(rows):
    columns = list(zip(*rows, strict=True))
    kept = rows_to_draw(columns, budget=40)
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert kept[-1] == len(rows) - 1
    for column in columns:
        finite = [v for v in column if v is not None and math.isfinite(v)]
        shown = [column[row] for row in kept if column[row] is not None]
        if finite:
            assert min(finite) in shown
            assert max(finite) in shown
        if any(v is not None and not math.isfinite(v) for v in column):
            assert any(not math.isfinite(v) for v in shown)


def test_few_rows_are_all_kept():
    assert rows_to_draw([[1.0, 2.0, 3.0]]) == [0, 1, 2]
    assert rows_to_draw([]) == []


@pytest.mark.parametrize("num_columns", [1, 5, 50])
def test_many_rows_become_few(num_columns):
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(num_columns, 30_000)).tolist()
    assert len(rows_to_draw(columns)) * num_columns < 60_000


def test_moving_mean_by_hand():
    assert moving_mean([1.0, 2.0, None, math.nan, 6.0], 1) == pytest.approx([1.5, 1.5, 2.0, 6.0, 6.0])
    assert moving_mean([None, None], 3) == [None, None]
    assert moving_mean([1.0, 100.0, 0.0], 1, geometric=True) == pytest.approx([10.0, 10.0, 100.0])


def test_moving_mean_against_numpy():
    column = np.random.default_rng(1).normal(size=200)
    expected = [column[max(0, i - 7) : i + 8].mean() for i in range(200)]
    assert moving_mean(column.tolist(), 7) == pytest.approx(expected, rel=1e-9, abs=1e-12)
