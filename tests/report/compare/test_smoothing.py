from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradwatch.report.compare.smoothing import in_bins, known_median, running_median

VALUES = arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 30)),
    elements=st.one_of(st.just(np.nan), st.floats(-1e300, 1e300)),
)


@settings(deadline=None)
@given(VALUES)
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_the_median_is_that_of_numpy(values: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        expected = np.nanmedian(0.5 * values, axis=-1)  # its own sum would overflow
    np.testing.assert_allclose(0.5 * known_median(values), expected, rtol=1e-12)


@settings(deadline=None)
@given(VALUES, st.integers(1, 30))
def test_a_running_median_is_the_median_of_each_window(values: np.ndarray, width: int) -> None:
    width = min(width, values.shape[-1])
    windows = [known_median(values[:, start : start + width]) for start in range(values.shape[-1] - width + 1)]
    np.testing.assert_array_equal(running_median(values, width), np.stack(windows, axis=-1))


@settings(deadline=None)
@given(VALUES, st.integers(1, 40))
def test_bins_hold_neighbours_and_the_last_what_is_left(values: np.ndarray, width: int) -> None:
    parts = [known_median(values[:, start : start + width]) for start in range(0, values.shape[-1], width)]
    np.testing.assert_array_equal(in_bins(values, width), np.stack(parts, axis=-1))


def test_the_least_and_the_largest_floats_are_medians_too() -> None:
    for value in (5e-324, 1.7e308, -1.7e308):
        assert known_median(np.array([value])) == value
        assert known_median(np.array([value, value])) == value


def test_one_spike_in_a_window_is_passed_over() -> None:
    assert known_median(np.array([1.0, 1e30, 1.0])) == 1.0
