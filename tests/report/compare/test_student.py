"""Student's t against SciPy, which comes with scikit-learn, and against values that stand in books."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from gradwatch.report.compare.student import limit, two_sided_tail

DEGREES = (1, 2, 3, 4, 8, 9, 18, 50, 198, 5000)


@pytest.mark.parametrize("df", DEGREES)
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 50.0, 1e3, 1e6])
def test_the_tail_is_that_of_scipy_however_small(t: float, df: int) -> None:
    expected = 2.0 * float(stats.t.sf(t, df))
    assert two_sided_tail(t, df) == pytest.approx(expected, rel=1e-10, abs=1e-290)


@pytest.mark.parametrize("df", DEGREES)
@pytest.mark.parametrize("level", [0.5, 0.05, 1e-3, 1e-7, 1e-12])
def test_the_limit_is_that_of_scipy(level: float, df: int) -> None:
    assert limit(level, df) == pytest.approx(float(stats.t.isf(level / 2, df)), rel=1e-10)


def test_values_from_tables() -> None:
    assert limit(0.05, 1) == pytest.approx(12.706, abs=5e-4)
    assert limit(0.05, 8) == pytest.approx(2.306, abs=5e-4)


def test_without_a_degree_of_freedom_nothing_is_beyond_the_limit() -> None:
    assert limit(0.05, 0) == math.inf


def test_infinite_t_has_no_tail() -> None:
    assert two_sided_tail(math.inf, 3) == 0.0
