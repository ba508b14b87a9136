"""One run against one run: bits, percent, and what is not finite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradwatch.report.compare.pair import apart, relative_difference

VALUES = arrays(np.float64, 12, elements=st.floats(allow_nan=True))


@settings(deadline=None)
@given(VALUES)
def test_a_curve_against_itself_is_identical(values: np.ndarray) -> None:
    assert apart(values, values.copy()) == (None, 0.0, None, None, 0.0)


def test_a_last_bit_is_a_difference_and_one_percent_is_visible() -> None:
    one = np.ones(10)
    other = one.copy()
    other[3:] = np.nextafter(1.0, 2.0)
    other[7:] = 1.02
    found = apart(one, other)
    assert (found.first, found.visible, found.nonfinite) == (3, 7, None)
    assert found.first_size == pytest.approx(2.2e-16, rel=0.01)
    assert found.largest == pytest.approx(0.02 / 1.02)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_they_part_where_one_alone_is_not_finite(bad: float) -> None:
    one, other = np.ones(5), np.ones(5)
    other[2] = bad
    assert apart(one, other) == (2, np.inf, 2, 2, 0.0)


def test_both_not_finite_is_no_difference() -> None:
    one = np.array([1.0, np.nan, np.inf])
    assert apart(one, np.array([1.0, np.inf, np.nan])).first is None


@settings(deadline=None)
@given(VALUES, VALUES)
def test_it_is_symmetric_and_never_raises(one: np.ndarray, other: np.ndarray) -> None:
    assert apart(one, other) == apart(other, one)
    size = relative_difference(one, other)
    assert ((size >= 0) & ((size <= 2) | np.isinf(size))).all()  # of opposite signs they are twice as far apart


def test_the_largest_numbers_do_not_overflow_and_the_least_do_not_vanish() -> None:
    one, other = np.array([1.7e308, 5e-324, 5e-324]), np.array([-1.7e308, 0.0, -5e-324])
    assert relative_difference(one, other).tolist() == [2.0, 1.0, 2.0]
