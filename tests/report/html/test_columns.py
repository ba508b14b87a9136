"""Columns hold all records, in order, and lose no spike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.report.html.columns import CELLS, FEWEST, MOST, columns_of, medians, pooled, pooled_where


def test_few_records_have_a_column_each() -> None:
    columns = columns_of(np.array([9, 19, 29]), 4)
    assert columns.first.tolist() == [0, 10, 20]
    assert columns.last.tolist() == [9, 19, 29]
    assert columns.even


@pytest.mark.parametrize(("layers", "most"), [(1, MOST), (2000, 500), (10**6, FEWEST)])
def test_many_records_share_columns(layers: int, most: int) -> None:
    columns = columns_of(np.arange(10_000), layers)
    assert most / 2 < len(columns.start) <= most
    assert most * layers <= max(CELLS, FEWEST * layers)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=3000))
def test_columns_cover_the_steps_in_order(steps: list[int]) -> None:
    columns = columns_of(np.array(steps), 3000)
    assert np.all(columns.first <= columns.last)
    assert np.all(np.diff(columns.last) >= 0)
    assert columns.last[-1] == max(steps)


def test_a_thinned_log_is_uneven() -> None:
    assert not columns_of(np.array([99, 199, 209, 219]), 4).even


def test_the_largest_stays() -> None:
    values = np.ones((5000, 2))
    values[4321, 1] = 7.0
    values[:20, 0] = np.nan
    columns = columns_of(np.arange(5000), 2)
    found = pooled(columns, values)
    column = int(np.searchsorted(columns.last, 4321))
    assert np.argwhere(found == 7.0).tolist() == [[column, 1]]
    assert np.isnan(found[0, 0])
    flags = pooled_where(columns, values == 7.0)
    np.testing.assert_array_equal(flags, found == 7.0)


def test_medians_are_of_what_is_finite_and_positive() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.inf, np.nan], [0.0, np.nan], [5.0, np.nan]])
    np.testing.assert_array_equal(medians(values), [3.0, np.nan])
