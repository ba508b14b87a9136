"""Mean and spread against numpy, in both domains."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradwatch.report.compare.spread import Domain, band, domain_of


def test_the_band_is_mean_and_standard_deviation_with_n_minus_one() -> None:
    values = np.array([[1.0, 2.0], [2.0, 4.0], [6.0, 9.0]])
    found = band(values, Domain(logarithmic=False))
    np.testing.assert_allclose(found.mean, values.mean(axis=0))
    np.testing.assert_allclose(found.high - found.mean, values.std(axis=0, ddof=1))
    np.testing.assert_allclose(found.mean - found.low, values.std(axis=0, ddof=1))
    np.testing.assert_array_equal([found.least, found.most], [[1.0, 2.0], [6.0, 9.0]])
    np.testing.assert_array_equal(found.runs, [3, 3])


def test_norms_have_a_geometric_mean_and_a_factor() -> None:
    values = np.array([[1.0], [100.0]])
    domain = domain_of([values])
    found = band(domain.into(values), domain)
    np.testing.assert_allclose(found.mean, [10.0])
    np.testing.assert_allclose(found.high / found.mean, np.exp(np.std(np.log(values), axis=0, ddof=1)))
    np.testing.assert_allclose(found.mean / found.low, found.high / found.mean)


def test_one_run_has_no_spread_and_none_has_nothing() -> None:
    found = band(np.array([[1.0, np.nan]]), Domain(logarithmic=False))
    np.testing.assert_array_equal(found.mean, [1.0, np.nan])
    np.testing.assert_array_equal(found.low, [np.nan, np.nan])
    np.testing.assert_array_equal(found.least, [1.0, np.nan])
    assert band(np.empty((0, 3)), Domain(logarithmic=True)).mean.shape == (3,)


def test_a_dead_layer_is_below_all_others_and_has_a_logarithm() -> None:
    values = np.array([[0.0, 0.5, 2.0]])
    domain = domain_of([values])
    assert domain.logarithmic
    np.testing.assert_allclose(np.exp(domain.into(values)), [[0.05, 0.5, 2.0]])


def test_losses_that_are_not_positive_are_compared_as_they_are() -> None:
    assert domain_of([np.array([3.0, 1.0])], zero_is_a_value=True).logarithmic
    for values in ([3.0, 0.0], [3.0, -1.0], [0.0, 0.0], [np.nan], []):
        assert not domain_of([np.array(values)], zero_is_a_value=True).logarithmic
    assert not domain_of([np.array([0.0, 0.0])]).logarithmic
    assert not domain_of([]).logarithmic


VALUES = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(allow_nan=True))
SANE = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-1e300, 1e300))


@settings(deadline=None)
@given(values=VALUES, zero_is_a_value=st.booleans())
def test_there_and_back_again(*, values: np.ndarray, zero_is_a_value: bool) -> None:
    domain = domain_of([values], zero_is_a_value=zero_is_a_value)
    back = domain.back(domain.into(values))
    finite = (np.abs(values) < 1e308) & (values != 0)  # the very last ones may be rounded to infinity
    np.testing.assert_allclose(
        back[finite], values[finite], rtol=1e-9, atol=1e-12 * domain.scale * (not domain.logarithmic) + 1e-300
    )
    assert np.isnan(back[~np.isfinite(values)]).all()


@settings(deadline=None)
@given(values=VALUES, zero_is_a_value=st.booleans())
def test_a_band_never_raises_nor_warns(*, values: np.ndarray, zero_is_a_value: bool) -> None:
    domain = domain_of([values], zero_is_a_value=zero_is_a_value)
    assert band(domain.into(values), domain).mean.shape == values.shape[1:]


@settings(deadline=None)
@given(values=SANE, zero_is_a_value=st.booleans())
def test_a_mean_lies_between_the_extremes(*, values: np.ndarray, zero_is_a_value: bool) -> None:
    domain = domain_of([values], zero_is_a_value=zero_is_a_value)
    found = band(domain.into(values), domain)
    known = np.isfinite(found.mean) & np.isfinite(found.least) & np.isfinite(found.most)
    slack = 1e-9 * np.maximum(np.abs(found.least), np.abs(found.most))[known]
    assert (found.least[known] - slack <= found.mean[known]).all()
    assert (found.mean[known] <= found.most[known] + slack).all()
