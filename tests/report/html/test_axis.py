"""Axes hold what they are made for, and their ticks are round and inside."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.report.html.axis import Axis, steps_axis, value_axis

ANY = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=8)


@given(ANY, st.sampled_from([None, True, False]))
def test_every_finite_value_has_a_place_on_its_axis(values: list[float], log: bool | None) -> None:  # noqa: FBT001 - drawn
    axis = value_axis(np.array(values), log=log)
    assert math.isfinite(axis.low)
    assert axis.low < axis.high
    finite = np.array([value for value in values if math.isfinite(value) and (value > 0.0 or not axis.log)])
    places = axis.place(finite)
    assert np.all((places >= -1e-9) & (places <= 1.0 + 1e-9))
    assert all(axis.low - 1e-9 * abs(axis.low) <= tick <= axis.high * (1 + 1e-9) or tick == 0 for tick in axis.ticks(4))


def test_what_has_no_place_is_nan() -> None:
    places = Axis(1.0, 100.0, log=True).place(np.array([0.0, -1.0, np.nan, np.inf, 10.0]))
    np.testing.assert_array_equal(places, [np.nan, np.nan, np.nan, np.nan, 0.5])


@pytest.mark.parametrize(
    ("values", "log"),
    [([1.0, 2.0], False), ([0.01, 2.0], True), ([0.0, 1e9], False), ([-1.0, 5.0], False), ([], False)],
)
def test_wide_positive_values_are_shown_by_orders_of_magnitude(values: list[float], log: bool) -> None:  # noqa: FBT001 - a parameter
    assert value_axis(np.array(values)).log is log


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0.0, 10.0), [0.0, 5.0, 10.0]),
        (Axis(0.0, 1.0), [0.0, 0.5, 1.0]),
        (Axis(0.01, 1000.0, log=True), [0.01, 1.0, 100.0]),
        (Axis(1.5, 6.0, log=True), [2.0, 5.0]),
    ],
)
def test_ticks_are_round(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks(3) == pytest.approx(ticks)


def test_a_run_of_one_step_has_an_axis() -> None:
    assert steps_axis(5, 5) == Axis(4.0, 6.0)
