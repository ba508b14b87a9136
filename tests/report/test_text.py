from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.report import text


@given(st.text())
def test_clean_text_acts_on_no_terminal(anything: str) -> None:
    cleaned = text.clean(anything)
    assert cleaned.isprintable()
    assert not anything.isprintable() or cleaned == anything


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0.0 s"),
        (9.94, "9.9 s"),
        (42.6, "43 s"),
        (60.0, "1 min"),
        (312.0, "5 min 12 s"),
        (7500.0, "2 h 5 min"),
        (273600.0, "3 d 4 h"),
        (-1.0, "unknown"),
        (math.nan, "unknown"),
        (math.inf, "unknown"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


@given(st.floats())
def test_any_time_has_a_text(time: float) -> None:
    assert text.moment(time).isprintable()
    assert text.duration(time)
    assert len(text.number(time)) <= len("-1.234e+308")


def test_numbers() -> None:
    values = (0.123456, 12345.0, math.nan, math.inf, -math.inf)
    assert [text.number(value) for value in values] == ["0.1235", "1.234e+04", "NaN", "inf", "-inf"]
    assert text.number(None) == "-"
    assert [text.size(value) for value in (7, 12_300, 124_438_000, 7e9)] == ["7", "12.3k", "124.4M", "7B"]
    assert (text.count(1, "step"), text.count(1200, "step")) == ("1 step", "1,200 steps")


@given(st.text(), st.integers(3, 20))
def test_what_is_shortened_fits(long: str, width: int) -> None:
    for short in (text.shorten(long, width), text.shorten_name(long, width)):
        assert len(short) <= width
        assert short == long or "…" in short


def test_a_name_keeps_both_ends() -> None:
    assert text.shorten_name("encoder.layers.11.attention.output", 20) == "encoder…ntion.output"
