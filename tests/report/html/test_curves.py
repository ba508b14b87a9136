"""What a chart draws, read back from its SVG."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from gradwatch.report.html.axis import steps_axis, value_axis
from gradwatch.report.html.curves import HEIGHT, WIDTH, Limit, Mark, Series, chart, extent
from gradwatch.report.html.paths import BUCKETS, thinned

STEPS = np.arange(0.0, 101.0)


def lines(made: str, name: str) -> list[ET.Element]:
    """The elements of the picture whose class has ``name``."""
    picture = ET.fromstring(re.search(r"<svg.*</svg>", made, re.DOTALL)[0])  # type: ignore[index]  # noqa: S314 - ours
    return [part for part in picture.iter() if name in (part.get("class") or "").split()]


def points(element: ET.Element) -> np.ndarray:
    """All points of a path."""
    numbers = re.findall(r"(-?[0-9.]+),(-?[0-9.]+)", element.get("d") or "")
    return np.array(numbers, dtype=np.float64)


def test_a_curve_can_be_read_back() -> None:
    y = 10.0 ** np.linspace(-3, 2, 101)
    (curve,) = lines(chart("norm", [Series(x=STEPS, y=y)], steps=steps_axis(0, 100)), "line")
    across, down = points(curve).T
    axis = value_axis(y)
    assert axis.log
    power = np.log10(axis.low) + (1 - down / HEIGHT) * np.log10(axis.high / axis.low)
    np.testing.assert_allclose(across / WIDTH * 100, STEPS, atol=0.011)
    np.testing.assert_allclose(10**power, y, rtol=3e-3)


def test_marks_stand_at_their_step() -> None:
    marks = [Mark(step=25, text="a spike", severity="warning", link="#finding-3")]
    made = chart("loss", [Series(x=STEPS, y=STEPS)], steps=steps_axis(0, 100), marks=marks)
    (line,) = lines(made, "at")
    assert (line.get("x1"), line.get("class")) == ("250", "at warning")
    assert 'href="#finding-3" style="left:25.000%" title="step 25: a spike"' in made


def test_signs_that_would_cover_one_another_are_one_of_the_worst() -> None:
    marks = [Mark(step=50, text="mild"), Mark(step=50, text="bad", severity="incident"), Mark(step=90, text="later")]
    made = chart("loss", [Series(x=STEPS, y=STEPS)], steps=steps_axis(0, 100), marks=marks)
    assert re.findall(r'title="([^"]*)"', made) == ["step 50: bad (and 1 more here)", "step 90: later"]
    assert [line.get("class") for line in lines(made, "at")] == ["at incident", "at info"]


def test_gaps_stay_gaps_and_infinity_is_marked_at_the_edge() -> None:
    y = STEPS.copy()
    y[40:60], y[80] = np.nan, np.inf
    made = chart("loss", [Series(x=STEPS, y=y)], steps=steps_axis(0, 100))
    curve, infinite = lines(made, "line")
    assert (curve.get("d") or "").count("M") == 3
    assert infinite.get("d") == "M800 0v14"


def test_a_lone_point_is_seen() -> None:
    (curve,) = lines(chart("loss", [Series(x=np.array([3.0]), y=np.array([1.0]))], steps=steps_axis(3, 3)), "line")
    assert (curve.get("d") or "").endswith("h0.01")


def test_bands_where_they_say_something() -> None:
    one = Series(x=STEPS, y=STEPS, low=STEPS - 1, high=STEPS + 1)
    made = chart("loss", [one], steps=steps_axis(0, 100))
    (band,) = lines(made, "band")
    assert len(points(band)) == 2 * len(STEPS)
    assert not lines(chart("loss", [Series(x=STEPS, y=STEPS, low=STEPS, high=STEPS)], steps=steps_axis(0, 100)), "band")


def test_a_spike_of_one_step_survives_thinning() -> None:
    y = np.ones(100_000)
    y[54_321], y[60_000] = 9.0, -9.0
    x, kept = thinned(np.arange(100_000.0), y)
    assert len(kept) <= 2 * BUCKETS
    assert (x[np.argmax(kept)], x[np.argmin(kept)]) == (54_321, 60_000)
    assert np.all(np.diff(x) > 0)


@pytest.mark.parametrize(("limit", "shown"), [(2.0, 1), (1e9, 0)])
def test_a_limit_is_drawn_unless_it_would_squeeze_the_curve(limit: float, shown: int) -> None:
    made = chart(
        "norm", [Series(x=STEPS, y=STEPS)], steps=steps_axis(0, 100), limits=[Limit(value=limit, text="limit")]
    )
    assert len(lines(made, "limit")) == made.count("limit-text") == shown


@pytest.mark.parametrize(
    "y", [np.zeros(0), np.full(3, np.nan), np.full(3, np.inf), np.full(3, 1e308), np.full(3, -5.0)]
)
def test_odd_values_make_a_chart(y: np.ndarray) -> None:
    made = chart("x", [Series(x=np.arange(float(y.size)), y=y, low=y, high=y)], steps=steps_axis(0, 2), log=True)
    assert "nan" not in made.lower()


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([1.0, 4.0, 2.0], "1 to 4, at last 2"),
        ([2.0, 2.0, 2.0], "2 throughout"),
        ([1.0, 4.0, math.inf], "1 to 4, not finite from step 30 on"),
        ([1.0, math.inf, math.inf], "1 to 1, not finite from step 20 on"),
        ([math.inf, 4.0, 2.0], "2 to 4, at last 2"),
        ([1.0, 4.0, math.nan], "1 to 4, at last 4"),  # not known there
        ([math.inf, math.inf, math.inf], "never finite"),
    ],
)
def test_what_a_curve_does_in_words(y: list[float], expected: str) -> None:
    assert extent(Series(x=np.array([10, 20, 30]), y=np.array(y))) == expected


def test_the_band_of_a_curve_is_part_of_what_it_spans() -> None:
    band = Series(x=np.array([10, 20]), y=np.array([1.0, 2.0]), low=np.array([0.5, 2.0]), high=np.array([1.0, 9.0]))
    assert extent(band) == "0.5 to 9, at last 2"


def test_a_line_carries_the_numbers_that_no_pixel_can_show() -> None:
    y = np.array([5e-7, math.nan, 0.05, 5e-5])
    made = chart("lr", [Series(x=np.array([0, 10, 20, 30]), y=y)], steps=steps_axis(0, 30))
    (line,) = lines(made, "line")
    assert line.get("data-told") == "0 5e-07 20 0.05 30 5e-05"
