from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.serialization.tensorboard_rows import UNKNOWN
from gradwatch.tensorboard_plugin.pooling import pooled, within
from gradwatch.tensorboard_plugin.reading import Rows, first_steps, merged


def table(last: list[int], values: list[float] | None = None) -> Rows:
    steps = np.array(last, dtype=np.int64)
    cells = np.zeros(len(last)) if values is None else np.array(values)
    return Rows(("a",), first_steps(steps), steps, cells.astype(np.float32)[:, None])


def ranges(rows: Rows) -> list[tuple[int, int]]:
    return list(zip(rows.first.tolist(), rows.last.tolist(), strict=True))


def test_a_row_stands_for_all_steps_since_the_one_before() -> None:
    assert ranges(table([49, 99, 199])) == [(0, 49), (50, 99), (100, 199)]
    assert ranges(table([549, 599])) == [(500, 549), (550, 599)]
    assert ranges(table([7, 100])) == [(0, 7), (8, 100)]
    assert ranges(table([7])) == [(7, 7)]
    assert ranges(table([])) == []


def test_rows_of_a_range_are_those_that_touch_it() -> None:
    rows = table([9, 19, 29, 39])
    assert ranges(within(rows, None, None)) == ranges(rows)
    assert ranges(within(rows, 15, 20)) == [(10, 19), (20, 29)]
    assert ranges(within(rows, 40, 50)) == []
    assert ranges(within(rows, None, 0)) == [(0, 9)]


def test_few_rows_are_left_alone() -> None:
    rows = table([1, 2, 3])
    assert pooled(rows, 3) is rows


def test_neighbours_are_put_together_by_equal_parts_of_the_range() -> None:
    rows = table(list(range(100)), list(range(100)))
    few = pooled(rows, 10)
    assert ranges(few) == [(10 * i, 10 * i + 9) for i in range(10)]
    assert few.values[:, 0].tolist() == [10 * i + 9 for i in range(10)]


def test_wide_rows_stay_as_they_are_beside_narrow_ones() -> None:
    """As in a long run: single steps first, then windows of hundreds."""
    rows = table([*range(100), 199, 299, 399])
    assert ranges(pooled(rows, 40)) == [*((10 * i, 10 * i + 9) for i in range(10)), (100, 199), (200, 299), (300, 399)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 100.0])
def test_one_bad_step_is_still_there(bad: float) -> None:
    values = [1.0] * 5000
    values[1234] = bad
    few = pooled(table(list(range(5000)), values), 100)
    (where,) = np.flatnonzero(few.values[:, 0] != 1.0)
    assert few.first[where] <= 1234 <= few.last[where]
    np.testing.assert_array_equal(few.values[where, 0], np.float32(bad))


def test_unknown_gives_way_to_what_is_known() -> None:
    few = pooled(table([0, 1, 2, 3], [UNKNOWN, 0.0, UNKNOWN, UNKNOWN]), 2)
    assert few.values[:, 0].tolist() == [0.0, UNKNOWN]


@given(
    st.lists(st.integers(0, 10_000), min_size=1, max_size=200, unique=True).map(sorted),
    st.integers(1, 50),
    st.none() | st.integers(0, 10_000),
    st.none() | st.integers(0, 10_000),
)
def test_whatever_the_range_there_are_few_columns_and_nothing_is_lost(
    last: list[int], columns: int, begin: int | None, end: int | None
) -> None:
    if begin is not None and end is not None and begin > end:
        begin, end = end, begin
    rows = within(table(last, [float(step) for step in last]), begin, end)
    few = pooled(rows, columns, begin, end)
    assert len(few.last) <= columns
    assert few.values.max(initial=-1.0) == rows.values.max(initial=-1.0)
    assert (few.first <= few.last).all()
    assert (few.first[1:] > few.last[:-1]).all()


def test_names_are_merged_in_the_order_of_the_longest_list() -> None:
    assert merged([("b", "c"), ("a", "b", "c"), ("z",)]) == ("a", "b", "c", "z")
    assert merged([]) == ()
