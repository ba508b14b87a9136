"""Numbers as a reader wants them."""

from __future__ import annotations

import doctest
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.report.html import colours, formats, markup

if TYPE_CHECKING:
    from types import ModuleType


@pytest.mark.parametrize("module", [formats, markup, colours])
def test_the_examples_are_true(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@given(st.floats(-1e300, 1e300), st.integers(1, 6))
def test_a_number_is_as_exact_as_its_digits(value: float, digits: int) -> None:
    assert float(formats.number(value, digits)) == pytest.approx(value, rel=0.51 * 10.0 ** (1 - digits), abs=5e-324)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "\N{EN DASH}"), (math.nan, "NaN"), (-math.inf, "-∞"), (7450.3, "7450"), (1e-10, "1e-10"), (0.0, "0")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert formats.number(value) == text


@given(st.floats())
def test_any_time_can_be_told(value: float) -> None:
    assert formats.duration(value)
    assert formats.moment(value)
    assert formats.share(value)
