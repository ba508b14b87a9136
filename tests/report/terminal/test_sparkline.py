from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.report.terminal.sparkline import ASCII, BLOCKS, is_wide, sparkline


def draw(values: list[float], width: int = 100, steps: list[int] | None = None) -> str:
    return sparkline(np.array(steps or range(len(values))), np.array(values, dtype=float), width)


def test_levels_are_the_values() -> None:
    assert draw([0, 1, 2, 3, 4, 5, 6, 7]) == BLOCKS.levels
    assert draw([1, 1, 1]) == "▁▁▁"
    assert draw([-1, 1]) == "▁█"


def test_a_wide_curve_can_be_logarithmic() -> None:
    values = np.array([1.0, 10.0, 100.0, 1000.0, np.nan, np.inf])
    assert sparkline(np.arange(6), values, 9, log=True) == "▁▃▆█ !"
    assert sparkline(np.arange(6), values, 9) == "▁▁▁█ !"
    assert is_wide(values)
    assert not is_wide(values[:2])
    assert not is_wide(values - 1.0)
    assert not is_wide(values[4:])


def test_what_is_not_finite_is_marked_and_what_is_not_known_blank() -> None:
    assert draw([np.nan, 1, np.inf, 2, np.nan]) == " ▁!█ "
    bad = np.array([False, True, False])
    assert sparkline(np.arange(3), np.array([1.0, np.nan, 2.0]), 9, bad=bad, ramp=ASCII) == "_!@"


def test_columns_are_steps_and_hold_the_largest_value() -> None:
    # Records of the older half are ten times as sparse: they take half of the width all the same.
    steps = [0, 9, *range(11, 21)]
    assert draw([1, 2, *[3] * 10], 4, steps) == "▁▅██"
    spike = [1.0] * 100
    spike[55] = 2.0
    assert draw(spike, 10) == "▁▁▁▁▁█▁▁▁▁"


def test_one_step_and_none() -> None:
    assert draw([5.0]) == "▁"
    assert draw([1.0, 2.0], steps=[7, 7]) == "▁█"
    assert draw([]) == ""
    assert draw([1.0], 0) == ""


@given(
    st.lists(st.tuples(st.integers(0, 2**52), st.floats()), min_size=1, max_size=50),
    st.integers(1, 20),
    st.sampled_from([BLOCKS, ASCII]),
)
def test_any_curve_has_a_line(points: list[tuple[int, float]], width: int, ramp: object) -> None:
    assert isinstance(ramp, type(BLOCKS))
    steps, values = zip(*sorted(points, key=lambda point: point[0]), strict=True)
    line = sparkline(np.array(steps), np.array(values), width, ramp=ramp)
    assert len(line) == min(width, len(points))
    assert set(line) <= set(ramp.levels + ramp.bad + " ")


@pytest.mark.parametrize("largest", [1.7e308, 5e-324])
def test_the_ends_of_the_range_of_floats(largest: float) -> None:
    assert draw([-largest, largest]) == "▁█"
