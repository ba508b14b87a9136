"""Packed values come back to three digits, and what is no number as what it was."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwatch.report.html.embed import STEP, packed, unpacked

POSITIVE = st.floats(1e-30, 1e30) | st.sampled_from([0.0, np.nan, np.inf])
TABLES = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=POSITIVE)


@given(TABLES)
def test_values_come_back(values: np.ndarray) -> None:
    block = packed(values, np.zeros(values.shape, dtype=bool))
    found = unpacked(block, len(values))
    # Half of a step; steps are wider where values span more than 16 bits of them.
    np.testing.assert_allclose(found, values, rtol=10 ** (0.51 * block["step"]) - 1, atol=0)


def test_three_digits_over_twenty_orders_of_magnitude() -> None:
    values = 10.0 ** np.random.default_rng(0).uniform(-12, 8, (50, 20))
    block = packed(values, np.zeros(values.shape, dtype=bool))
    assert block["step"] == STEP
    assert np.max(np.abs(unpacked(block, 50) / values - 1)) < 5e-4


def test_all_that_a_float_can_be_fits() -> None:
    values = np.array([[5e-324, 1.7e308]])
    np.testing.assert_allclose(unpacked(packed(values, values > np.inf), 1), values, rtol=0.02)


def test_what_was_not_finite_is_so_whatever_its_value() -> None:
    found = unpacked(packed(np.array([[1.0, np.nan]]), np.array([[True, True]])), 1)
    assert np.isinf(found).all()


def test_two_thousand_layers_are_small() -> None:
    random = np.random.default_rng(0)
    values = np.exp(random.normal(0, 1.2, 2000) + random.normal(0, 0.2, (400, 2000)))
    block = packed(values, np.zeros(values.shape, dtype=bool))
    assert len(block["data"]) < 1.7e6
